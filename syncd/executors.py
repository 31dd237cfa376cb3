"""
Which thread does what.

The asyncio loop decides; bytes and blocking calls move in threads: one for the store (SQLite likes
one writer), one a running file for hashing, one a PUT slot for sending, one for walking the tree.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from syncd.core.transfer.concurrency import Width
from syncd.disk_full import Patience
from syncd.errors import StateFull

P = ParamSpec("P")
T = TypeVar("T")


class Lanes:
    """
    The threads of the program.

    Args:
        files: Files hashed at once.
        slots: PUT requests under way at once, at most.

    ``patience`` may be set to what waits while the store's disk is full.
    """

    patience: Patience | None = None

    def __init__(self, *, files: int, slots: int) -> None:
        self._db = ThreadPoolExecutor(1, "store")
        self._hash = ThreadPoolExecutor(files, "hash")
        self._send = ThreadPoolExecutor(slots, "send")
        self._scan = ThreadPoolExecutor(1, "scan")

    async def db(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run a call of the store.

        It runs to its end even when the caller is cancelled: a commit is not taken back. One that
        found the disk full is made again; every call of the store is one transaction or none.

        Raises:
            StateFull: Nobody waits for room, or not any longer.
        """
        call = partial(function, *args, **kwargs)
        try:
            return await self._committed(call)
        except StateFull as error:
            if self.patience is None:
                raise
            return await self.patience.outlast(error, lambda: self._committed(call))

    async def _committed(self, call: "partial[T]") -> T:
        future = self._run(self._db, call)
        future.add_done_callback(_retrieve_error)  # a cancelled caller no longer retrieves it
        return await asyncio.shield(future)

    async def hash(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something that reads a whole file."""
        return await self._run(self._hash, partial(function, *args, **kwargs))

    async def send(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a request that sends a body."""
        return await self._run(self._send, partial(function, *args, **kwargs))

    async def scan(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something that looks at the tree."""
        return await self._run(self._scan, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Wait for the store; sending and hashing threads were told to stop and end by themselves."""
        for pool in (self._scan, self._hash, self._send):
            pool.shutdown(wait=False, cancel_futures=True)
        self._db.shutdown(wait=True)

    @staticmethod
    def _run(pool: ThreadPoolExecutor, call: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(pool, call)


def _retrieve_error(future: "asyncio.Future[T]") -> None:
    """Keep asyncio from logging an error as never retrieved."""
    if not future.cancelled():
        future.exception()


class Slots:
    """
    Permission to send: at most as many at once as *width* says.

    Args:
        width: Changed by how the bodies fare.
    """

    def __init__(self, width: Width) -> None:
        self.width = width
        self._busy = self._waiting = 0
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot for the length of the block."""
        self._waiting += 1
        try:
            while self._busy >= self.width.limit:
                await self._changed.wait()
        finally:
            self._waiting -= 1
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._tell()

    def look(self, sent: int, now_s: float, *, held_to: int | None) -> None:
        """
        Is it time for more at once, or fewer?

        Args:
            sent: Bytes that went to the wire in all by *now_s*.
            held_to: Bytes a second that may; None: any number.
        """
        self.width.look(sent, now_s, asked=self._busy + self._waiting, held_to=held_to)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
