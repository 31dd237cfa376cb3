"""The clocks that syncd uses: wall time for what is stored, time since boot for waits."""

import asyncio
import time
from typing import Any, Protocol


class Clock(Protocol):
    """The source of all times in syncd; tests use one that they set."""

    def now_ms(self) -> int:
        """Unix milliseconds, UTC. May jump; used for what is stored and shown."""

    def boottime_s(self) -> float:
        """Seconds since boot, suspend included. Never goes back; used for every wait."""

    def suspended_s(self) -> float:
        """Seconds since boot during which the machine was suspended."""

    async def sleep(self, seconds: float) -> None:
        """Wait until *seconds* have passed on this clock."""


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


async def wait_until(clock: Clock, event: asyncio.Event, seconds: float | None) -> None:
    """Wait until *event* is set, or until *seconds* have passed (None: without limit)."""
    waiters: set[asyncio.Future[Any]] = {asyncio.ensure_future(event.wait())}
    if seconds is not None:
        waiters.add(asyncio.ensure_future(clock.sleep(seconds)))
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
