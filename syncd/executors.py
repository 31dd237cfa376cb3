"""
Which thread does what.

The asyncio loop decides; bytes and blocking calls move in threads: one for the store (SQLite likes
one writer), one a running file for hashing, one a PUT slot for sending, one for walking the tree.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from syncd.disk_full import DiskFullRetry
from syncd.errors import StateFull

P = ParamSpec("P")
T = TypeVar("T")


class Executors:
    """
    The threads of the program.

    Args:
        files: Files hashed at once.
        slots: PUT requests under way at once, at most.

    ``patience`` may be set to what waits while the store's disk is full.
    """

    patience: DiskFullRetry | None = None

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
