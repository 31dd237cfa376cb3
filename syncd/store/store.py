"""The store: the database tables as their one writer sees them."""

from contextlib import AbstractContextManager, ExitStack

from syncd.store.cleanup import StoreCleanup
from syncd.store.db import Database
from syncd.store.files import Files
from syncd.store.holds import Holds, Sent, Servers
from syncd.store.jobs import JobQueue
from syncd.store.lock import Lock
from syncd.store.reports import Report
from syncd.store.times import Times


class Store:
    """
    The one writer of the database; it takes the lock first. Use all methods on one thread.

    ``seen`` reads the file table on one other thread. That thread must call ``stop_reading`` before
    the store is closed: SQLite must not be closed during a query.

    Raises:
        AlreadyRunning: Another process owns *state_dir*.
        StateError: It cannot be written, or the database is damaged or too new.
    """

    def __init__(self, state_dir: str) -> None:
        with ExitStack() as opened:
            self._lock = Lock(state_dir)
            opened.callback(self._lock.close)
            self._db = Database.open(state_dir)
            opened.callback(self._db.close)
            reader = Database.open_reader(state_dir)
            assert reader is not None, "the writer made it"
            opened.pop_all()
        self._reader = reader
        self.jobs = JobQueue(self._db)
        self.uploads = self.jobs.uploads
        self.records = self.jobs.records
        self.files = Files(self._db, self.jobs)
        self.holds = Holds(self._db)
        self.servers = Servers(self._db)
        self.sent = Sent(self._db)
        self.upkeep = StoreCleanup(self._db)
        self.report = Report(self._db)
        self.times = Times(self._db)
        self.seen = Files(self._reader, JobQueue(self._reader))

    def transaction(self) -> AbstractContextManager[None]:
        """
        Run the block as one transaction.

        Raises:
            StateError: It cannot be written.
        """
        return self._db.transaction()

    def require_in_place(self) -> None:
        """
        Require that the database is where it was opened.

        Raises:
            StateError: It, or the state directory, was removed, renamed or replaced.
        """
        self._db.require_in_place()

    def stop_reading(self) -> None:
        """Close the connection of ``seen``, in the thread that reads."""
        self._reader.close()

    def close(self) -> None:
        """Close the database, then release the lock."""
        self._reader.close()
        self._db.close()
        self._lock.close()
