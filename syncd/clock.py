"""Time as the program sees it: one clock for the database, one for waits."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where every time in syncd comes from; tests hand in one that they turn by hand."""

    def now_ms(self) -> int:
        """Unix milliseconds, UTC. May jump; used for what is stored and shown."""
        ...

    def boottime_s(self) -> float:
        """Seconds since boot, suspend included. Never goes back; used for every wait."""
        ...

    def suspended_s(self) -> float:
        """Seconds since boot that this machine spent asleep."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass on this clock."""
        ...


class SystemClock:
    """The machine's own clocks (``CLOCK_REALTIME`` and ``CLOCK_BOOTTIME``)."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boottime_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def suspended_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
