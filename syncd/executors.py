"""
The thread pools.

The asyncio loop makes all decisions. Blocking calls run in threads: one thread for the store (SQLite allows
one writer), one per file for hashing, one per request for sending, and one for scanning the tree.
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
    The thread pools of the program.

    *files* are hashed and *slots* requests sent at the same time, at most. *disk_full* repeats a store
    call that failed because the disk is full; None: the call fails.
    """

    def __init__(self, *, files: int, slots: int, disk_full: DiskFullRetry | None = None) -> None:
        self._disk_full = disk_full
        self._db = ThreadPoolExecutor(1, "store")
        self._hash = ThreadPoolExecutor(files, "hash")
        self._send = ThreadPoolExecutor(slots, "send")
        self._scan = ThreadPoolExecutor(1, "scan")

    async def db(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run a call of the store, which is one transaction and repeated while the disk is full.

        The call runs to its end even if the caller is cancelled, because a commit cannot be undone.

        Raises:
            StateFull: The disk is full and the call is not, or no longer, repeated.
        """
        call = partial(function, *args, **kwargs)
        try:
            return await self._commit(call)
        except StateFull as error:
            if self._disk_full is None:
                raise
            return await self._disk_full.run(lambda: self._commit(call), error)

    async def _commit(self, call: "partial[T]") -> T:
        future = self._run(self._db, call)
        future.add_done_callback(_retrieve_error)  # a cancelled caller no longer retrieves it
        return await asyncio.shield(future)

    async def hash(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(self._hash, partial(function, *args, **kwargs))

    async def send(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(self._send, partial(function, *args, **kwargs))

    async def scan(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(self._scan, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Wait for the store. The other threads have been asked to stop and end on their own."""
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
