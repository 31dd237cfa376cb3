"""A disk that fails: under the model files, and under the state database."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

from syncd.fs import hashing, scanner
from syncd.ingest import integrity
from syncd.store import db

Fails = Callable[[str, str], int | None]
"""The errno with which a call (its name) fails for a file (its last name), if it does."""


@dataclass(slots=True)
class Disk:
    """The system calls on model files, as the kernel makes them, but for those that *fail*."""

    fail: Fails = lambda call, name: None
    failed: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, **how: Any) -> int:
        if not flags & os.O_PATH:  # which asks for no permission
            self._may_fail("open", path)
        fd = os.open(path, flags, **how)
        self.names[fd] = path
        return fd

    def dup2(self, fd: int, fd2: int, **how: Any) -> int:
        self.names[fd2] = self.names[fd]
        return os.dup2(fd, fd2, **how)

    def pread(self, fd: int, *how: Any) -> bytes:
        self._may_fail("read", self.names[fd])
        return os.pread(fd, *how)

    def preadv(self, fd: int, *how: Any) -> int:
        self._may_fail("read", self.names[fd])
        return os.preadv(fd, *how)

    @contextmanager
    def scandir(self, fd: int) -> Iterator[Any]:
        self._may_fail("list", self.names[fd])
        with os.scandir(fd) as entries:
            yield entries

    def _may_fail(self, call: str, path: str) -> None:
        number = self.fail(call, os.path.basename(os.fspath(path)))
        if number is not None:
            self.failed.append(call)
            raise OSError(number, os.strerror(number))


@contextmanager
def model_disk() -> Iterator[Disk]:
    """The disk that all model files are on."""
    disk = Disk()
    with ExitStack() as patched:
        for room in (hashing, scanner, integrity):
            patched.enter_context(mock.patch.object(room, "os", disk))
        yield disk


@dataclass(slots=True)
class Ledger:
    """The disk of the state database: ``code`` is what SQLite says of every write, 0 if it works."""

    code: int = 0
    refused: int = 0

    def check(self, connection: sqlite3.Connection, sql: str) -> None:
        if not self.code or not _writes(connection, sql):
            return
        self.refused += 1
        if connection.in_transaction:
            sqlite3.Connection.execute(connection, "ROLLBACK")  # as SQLite does by itself
        error = sqlite3.OperationalError("the disk")
        if self.code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            error = sqlite3.DatabaseError("the file")  # type: ignore[assignment]
        error.sqlite_errorcode = self.code
        error.sqlite_errorname = NAMES[self.code]
        raise error


NAMES = {
    number: name
    for name, number in vars(sqlite3).items()
    if name.startswith("SQLITE_") and isinstance(number, int) and number < 2**14
    and name.split("_")[1] in ("FULL", "IOERR", "READONLY", "CORRUPT", "NOTADB")
}  # fmt: skip


def _writes(connection: sqlite3.Connection, sql: str) -> bool:
    """A commit, or a statement that is a transaction of its own."""
    verb = sql.split(maxsplit=1)[0]
    return verb == "COMMIT" or (
        verb in ("INSERT", "UPDATE", "DELETE") and not connection.in_transaction
    )


@contextmanager
def state_disk() -> Iterator[Ledger]:
    """The disk that the state directory is on."""
    ledger = Ledger()

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            ledger.check(self, sql)
            return super().execute(sql, *values)

    def connect(*where: Any, **how: Any) -> sqlite3.Connection:
        return sqlite3.connect(*where, factory=Connection, **how)

    ours = SimpleNamespace(**{**vars(sqlite3), "connect": connect})
    with mock.patch.object(db, "sqlite3", ours):
        yield ledger
