"""
Waiting for room on a full disk.

A statement that found no room did nothing, so the same one is made again, for ever in a daemon and
for a while in a backfill. The hold is told to the log only: a row of it would need the room that is
not there.
"""

import asyncio

import structlog

from syncd.clock import Clock
from syncd.errors import StateFull

FIRST_S, MOST_S = 1.0, 60.0
"""Between two probes: as long as was waited already, within these bounds."""


class Patience:
    """
    One hold for all that wait for the state disk.

    Args:
        limit_s: Seconds after which waiting is given up; None never.
    """

    def __init__(self, clock: Clock, *, limit_s: float | None) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._since_s: float | None = None
        self._stopped = asyncio.Event()
        self._log = structlog.get_logger("syncd.patience")

    @property
    def waiting(self) -> bool:
        """Is there no room on the state disk now?"""
        return self._since_s is not None

    async def wait(self, error: StateFull) -> None:
        """
        Let some time pass before the next probe.

        Raises:
            StateFull: *error*: the limit has passed, or nobody waits any more.
        """
        now_s = self._clock.boottime_s()
        if self._since_s is None:
            self._since_s = now_s
            self._log.error("hold.began", kind="state", why=str(error))
        waited_s = now_s - self._since_s
        if self._limit_s is not None and waited_s >= self._limit_s:
            raise error
        await self._nap(min(MOST_S, max(FIRST_S, waited_s)))
        if self._stopped.is_set():
            raise error

    def end(self) -> None:
        """A statement that had waited got through."""
        if self._since_s is not None:
            seconds = round(self._clock.boottime_s() - self._since_s, 3)
            self._log.info("hold.ended", kind="state", seconds=seconds)
            self._since_s = None

    def give_up(self) -> None:
        """The program stops: who waits, fails."""
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
