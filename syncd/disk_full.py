"""
Retries while the disk of the state directory is full.

A statement that fails for lack of space changes nothing, so it can be repeated: without end in the daemon,
for a limited time in a backfill. The hold has no row in the database, which would need the missing space.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from syncd.clock import Clock, wait_until
from syncd.errors import StateFull
from syncd.states import HoldKind

T = TypeVar("T")

FIRST_S, MOST_S = 1.0, 60.0  # bounds of a wait, which equals the time waited so far


class DiskFullRetry:
    """
    Repeats store calls until the disk has space; all callers share one hold.

    After *limit_s* it gives up (None: never). While ``waiting``, ``since_ms`` (Unix) is the time of the
    first failure and ``reason`` its message.
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
        return self._since_s is not None

    async def run(self, attempt: Callable[[], Awaitable[T]], error: StateFull) -> T:
        """
        Repeat *attempt*, which failed with *error*, until it succeeds, and return its result.

        Raises StateFull after the limit, for this call or an earlier one, or if the program stops.
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
            if not self._waiters:  # the last caller may have been cancelled
                self._since_s = None

    async def _wait(self, error: StateFull) -> None:
        if self._stopped.is_set():
            raise error
        now_s = self._clock.boottime_s()
        if self._since_s is None:
            self._since_s, self.since_ms, self.reason = now_s, self._clock.now_ms(), str(error)
            self._log.error("hold.started", kind=HoldKind.STATE, reason=str(error))
        waited_s = now_s - self._since_s
        if self._limit_s is not None and waited_s >= self._limit_s:
            self.give_up()
            raise error
        await wait_until(self._clock, self._stopped, min(MOST_S, max(FIRST_S, waited_s)))
        if self._stopped.is_set():
            raise error

    def _end(self) -> None:
        if self._since_s is not None:
            seconds = round(self._clock.boottime_s() - self._since_s, 3)
            self._log.info("hold.ended", kind=HoldKind.STATE, seconds=seconds)
            self._since_s = None

    def give_up(self) -> None:
        """Fail all waiting calls, and from now on every call that finds the disk full."""
        self._stopped.set()
