"""
Waiting for room on a full disk.

A statement that found no room did nothing, so the same one is made again, for ever in a daemon and
for a while in a backfill. The hold is told to the log and over the socket only: a row of it would need
the room that is not there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from syncd.clock import Clock
from syncd.errors import StateFull

T = TypeVar("T")

FIRST_S, MOST_S = 1.0, 60.0
"""Between two probes: as long as was waited already, within these bounds."""


class DiskFullRetry:
    """
    One hold for all that wait for the state disk.

    Args:
        limit_s: Seconds after which waiting is given up; None never.

    While it is ``waiting``, ``since_ms`` (Unix) and ``reason`` tell since when and what for.
    """

    def __init__(self, clock: Clock, *, limit_s: float | None) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._since_s: float | None = None
        self.since_ms = 0
        self.reason: str | None = None
        self._waiters = 0
        self._stopped = asyncio.Event()
        self._log = structlog.get_logger("syncd.disk_full")

    @property
    def waiting(self) -> bool:
        """Is there no room on the state disk now?"""
        return self._since_s is not None

    async def outlast(self, error: StateFull, attempt: Callable[[], Awaitable[T]]) -> T:
        """
        Make an *attempt* that ended with *error* again and again until it gets through; its result.

        Raises:
            StateFull: The limit has passed, now or once before, or the program stops.
        """
        self._waiters += 1
        try:
            while True:
                await self._wait(error)
                try:
                    result = await attempt()
                except StateFull as again:
                    error = again
                else:
                    self._end()
                    return result
        finally:
            self._waiters -= 1
            if not self._waiters:  # the last was cancelled, perhaps: nobody waits any more
                self._since_s = None

    async def _wait(self, error: StateFull) -> None:
        """Let some time pass before the next probe."""
        if self._stopped.is_set():
            raise error
        now_s = self._clock.boottime_s()
        if self._since_s is None:
            self._since_s, self.since_ms, self.reason = now_s, self._clock.now_ms(), str(error)
            self._log.error("hold.started", kind="state", reason=str(error))
        waited_s = now_s - self._since_s
        if self._limit_s is not None and waited_s >= self._limit_s:
            self.give_up()
            raise error
        await self._nap(min(MOST_S, max(FIRST_S, waited_s)))
        if self._stopped.is_set():
            raise error

    def _end(self) -> None:
        if self._since_s is not None:
            seconds = round(self._clock.boottime_s() - self._since_s, 3)
            self._log.info("hold.ended", kind="state", seconds=seconds)
            self._since_s = None

    def give_up(self) -> None:
        """The program stops: whoever waits or would have to, fails."""
        self._stopped.set()

    async def _nap(self, seconds: float) -> None:
        waiters = {
            asyncio.ensure_future(self._clock.sleep(seconds)),
            asyncio.ensure_future(self._stopped.wait()),
        }
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
