"""
The database file: opening, migrating, transactions.

One read-write connection on one thread, opened while the lock is held; all others read with
``mode=ro``. WAL with ``synchronous=EXTRA``: commits survive ``kill -9`` and power loss
(https://sqlite.org/wal.html, https://sqlite.org/pragma.html#pragma_synchronous).
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar

from syncd.config.locations import denied
from syncd.errors import StateError, StateFull
from syncd.formatting import printable
from syncd.store.lock import unusable

FILE_NAME = "syncd.db"
WAL_MODE_SUFFIXES = ("", "-wal", "-shm")
"""Suffixes of the three files that a connection in WAL mode has open."""

INDEX_SIZE = 32768
"""Bytes by which SQLite extends the index of the WAL."""

Q = TypeVar("Q")


class Database:
    """
    A connection that converts the exceptions of SQLite into ours.

    Use ``Database.open`` for the one writer (which must hold the lock) and ``Database.open_reader``
    for all others.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._committing = False
        self._opened: list[tuple[int, int]] = []
        connection.row_factory = sqlite3.Row

    @classmethod
    def open(cls, state_dir: str) -> "Database":
        """
        Open for writing, creating and migrating as needed.

        Raises:
            StateError: Unwritable, damaged, or written by a newer syncd.
        """
        path = os.path.join(state_dir, FILE_NAME)
        with _errors(path):
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            database = cls(connection, path)
            try:
                os.chmod(path, 0o600)
                for pragma in (
                    "busy_timeout = 5000",
                    # The same as FULL with a WAL; durable also for the journal while the schema is created.
                    "synchronous = EXTRA",
                    "foreign_keys = ON",
                    "journal_size_limit = 16777216",
                ):
                    connection.execute(f"PRAGMA {pragma}")
                database._check()
                migrate(connection, path)
                # Not earlier: a WAL with the whole schema would take the space twice.
                connection.execute("PRAGMA journal_mode = WAL").close()
                database._fold_log()
                database._opened = database._files()
            except BaseException:
                connection.close()
                raise
        return database

    @classmethod
    def open_reader(cls, state_dir: str) -> "Database | None":
        """
        Open for reading; None while there is no database yet.

        Raises:
            AccessDenied: This account may not read it.
            StateError: Unreadable, damaged, or of another version than this program reads.
        """
        path = os.path.join(state_dir, FILE_NAME)
        try:
            os.stat(path)
        except PermissionError:
            raise denied(state_dir) from None
        except OSError:
            return None
        if not os.access(path, os.R_OK, effective_ids=True):
            raise denied(path)
        with _errors(path):
            # Escape every byte, so that a reader can open any name that the writer can.
            where = "".join(f"%{byte:02x}" for byte in os.fsencode(os.path.abspath(path)))
            connection = sqlite3.connect(
                f"file:{where}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA query_only = ON")
                connection.execute("PRAGMA busy_timeout = 5000")
                require_version(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(connection, path)

    def close(self) -> None:
        """Close the connection; the writer then moves the WAL into the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """
        Run the block as one transaction.

        Inside another transaction it is part of that one; an exception must then end both.

        Raises:
            StateFull: The disk is full. The WAL was moved into the file, which may have made room.
            StateError: It cannot be written, or it was removed or replaced.
        """
        if self._committing:
            yield
            return
        self.require_in_place()
        self._committing = True
        try:
            with self._committed():
                yield
        except StateFull:
            self._fold_log()
            raise
        finally:
            self._committing = False

    def require_in_place(self) -> None:
        """
        Require that the path still leads to the files that the writer has open.

        SQLite continues to write into removed files, and everything written there is lost.

        Raises:
            StateError: A file, or the directory, was removed, renamed or replaced.
        """
        with _errors(self._path):
            try:
                in_place = not self._opened or self._files() == self._opened
            except FileNotFoundError:
                in_place = False
        if not in_place:
            raise StateError(
                f"{printable(self._path)}, or a file beside it, was removed, renamed or replaced while "
                "syncd was running. Nothing more was written. Put the state directory back, or leave "
                "it as it is, and start syncd again."
            )

    def _files(self) -> list[tuple[int, int]]:
        found = (os.stat(self._path + suffix) for suffix in WAL_MODE_SUFFIXES)
        return [(each.st_dev, each.st_ino) for each in found]

    @contextmanager
    def _committed(self) -> Iterator[None]:
        with _errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def run(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> int:
        """Execute one statement, in its own transaction if none is open; return the changed rows."""
        with self.transaction(), closing(self._connection.execute(sql, parameters)) as cursor:
            return cursor.rowcount

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute one statement for each of *rows*, in one transaction."""
        with self.transaction():
            self._connection.executemany(sql, rows).close()

    def update(
        self, table: str, values: Mapping[str, Any], where: str, keys: Mapping[str, Any]
    ) -> int:
        """Write *values* to the rows that match *where*, which names *keys*; return their number."""
        columns = ", ".join(f"{column} = :{column}" for column in values)
        return self.run(f"UPDATE {table} SET {columns} WHERE {where}", {**values, **keys})

    def insert(self, table: str, values: dict[str, Any]) -> int:
        """Insert one row in a transaction and return its id."""
        columns = ", ".join(values)
        sql = f"INSERT INTO {table} ({columns}) VALUES (:{columns.replace(', ', ', :')})"
        assert self._connection.in_transaction, sql
        with _errors(self._path), closing(self._connection.execute(sql, values)) as cursor:
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def one(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Any | None:
        """Return the first row, or None."""
        with _errors(self._path), closing(self._connection.execute(sql, parameters)) as cursor:
            return cursor.fetchone()

    def value(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Any:
        """Return the first column of the first row; None if there is no row."""
        row = self.one(sql, parameters)
        return None if row is None else row[0]

    def all(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        """Return all rows."""
        with _errors(self._path), closing(self._connection.execute(sql, parameters)) as cursor:
            return cursor.fetchall()

    def tuples(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return all rows as tuples, which can be compared."""
        with _errors(self._path), closing(self._connection.cursor()) as cursor:
            cursor.row_factory = None
            return cursor.execute(sql, parameters).fetchall()

    def vacuum(self) -> None:
        """Return the space of deleted rows to the disk; needs room for a temporary copy."""
        with _errors(self._path):
            self._connection.execute("VACUUM").close()

    def begin_reading(self) -> None:
        """Let all queries until ``close`` read the state as of the first one."""
        with _errors(self._path):
            self._connection.execute("BEGIN").close()

    def _fold_log(self) -> None:
        """Move the WAL into the file and truncate it, as far as there is room."""
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()

    def _check(self) -> None:
        row = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if row[0] != "ok":
            raise sqlite3.DatabaseError(row[0])


class Queries:
    """The queries and writes about one thing."""

    def __init__(self, db: Database) -> None:
        self._db = db


@contextmanager
def reading(state_dir: str, questions: Callable[[Database], Q]) -> Iterator[Q | None]:
    """
    Read the store as of one moment, whether or not a daemon runs; None if there is no store.

    Do not keep it open for long: the writer's WAL grows until it is closed.

    Args:
        questions: The class of queries: ``Outline`` or ``Report``.

    Raises:
        StateError: It cannot be read, or belongs to another version.
    """
    db = Database.open_reader(state_dir)
    if db is None:
        yield None
        return
    try:
        db.begin_reading()
        yield questions(db)
    finally:
        db.close()


def migrations() -> list[str]:
    """Return the SQL files in order; file n migrates a database from version n - 1 to n."""
    folder, scripts = os.path.join(os.path.dirname(__file__), "migrations"), []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".sql"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                scripts.append(file.read())
    return scripts


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """
    Migrate the schema to this program's version; each file is one transaction.

    Raises:
        StateError: The database was written by a newer syncd.
    """
    version, _ = _versions(connection, path)
    for script in migrations()[version:]:
        try:
            connection.executescript(script)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def require_version(connection: sqlite3.Connection, path: str) -> None:
    """Require exactly this program's schema. Raises ``StateError`` if it has another version."""
    version, ours = _versions(connection, path)
    if version < ours:
        raise StateError(
            f"{printable(path)} has schema {version}, this syncd reads {ours}. "
            "Start syncd once: it brings the database up to date."
        )


def _versions(connection: sqlite3.Connection, path: str) -> tuple[int, int]:
    """Return the versions of the schema and of this program, which must not be older."""
    version, ours = connection.execute("PRAGMA user_version").fetchone()[0], len(migrations())
    if version > ours:
        raise StateError(
            f"{printable(path)} was written by a newer syncd (schema {version}, this one knows "
            f"{ours}). Install that version again, or give this one a state directory of its own."
        )
    return version, ours


@contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a bug in our code, not a damaged disk
    except sqlite3.DatabaseError as error:
        raise (StateFull if _may_pass(error, path) else StateError)(
            _explain(path, error)
        ) from error
    except OSError as error:
        raise unusable(os.path.dirname(path), error) from error


def _may_pass(error: sqlite3.DatabaseError, path: str) -> bool:
    """Return whether the disk is full or mounted read-only; nothing was written then."""
    if _found_no_room(error, path):
        return True
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR):
        return code == sqlite3.SQLITE_READONLY or _is_mounted_read_only(path)
    return False


def _found_no_room(error: sqlite3.DatabaseError, path: str) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    if code != sqlite3.SQLITE_IOERR_SHMSIZE:  # any error of the WAL's index
        return bool(code == sqlite3.SQLITE_FULL)
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < INDEX_SIZE


def _is_mounted_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _explain(path: str, error: sqlite3.DatabaseError) -> str:
    name = getattr(error, "sqlite_errorname", "") or ""
    where = printable(path)
    if _found_no_room(error, path):
        return f"The disk that holds {where} is full. Make room; nothing acknowledged is lost."
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"{where} cannot be written ({error}). Check its owner, mode and file system."
    if name.startswith(("SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{where} could not be read or written ({error}). Check the disk below it."
    return (
        f"{where} is damaged ({error}). Move the file aside and start again: what the catalog "
        "already holds is found there and not sent twice where the server lists models."
    )
