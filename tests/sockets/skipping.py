"""A clock for real threads and sockets: it is real time, but for waits, which it jumps over."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.0005
"""Between looks whether the program does anything but wait."""

AHEAD_S = 3600.0
"""The clock starts ahead of the kernel's, so that every file is old enough."""


class SkippingClock:
    """
    While nothing is running, the clock jumps to the end of the next wait.

    Args:
        on_skip: Called with the number of skipped seconds.
    """

    def __init__(self, on_skip: Callable[[float], None]) -> None:
        self._on_skip = on_skip
        self._ahead_s = 0.0
        self._naps: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._busy = 0
        self._skipping: asyncio.Task[None] | None = None
        self._skip(AHEAD_S)

    def now_ms(self) -> int:
        return int((time.time() + self._ahead_s) * 1000)

    def boottime_s(self) -> float:
        return time.monotonic() + self._ahead_s

    def suspended_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        end = asyncio.get_running_loop().create_future()
        heapq.heappush(self._naps, (self.boottime_s() + seconds, next(self._numbers), end))
        if self._skipping is None or self._skipping.done():
            self._skipping = asyncio.create_task(self._watch())
        await end

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Something is running that takes real time."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    def pass_by(self, seconds: float) -> None:
        """Let *seconds* pass between two runs."""
        self._skip(seconds)

    def stop(self) -> None:
        """Skip nothing more."""
        if self._skipping is not None:
            self._skipping.cancel()
        self._naps.clear()

    async def _watch(self) -> None:
        quiet = 0
        while self._naps:
            await asyncio.sleep(LOOK_S)
            quiet = 0 if self._busy else quiet + 1
            at_s, _, end = self._naps[0]
            left_s = at_s - self.boottime_s()
            if end.done():
                heapq.heappop(self._naps)
            elif left_s <= 0 or quiet > 1:
                heapq.heappop(self._naps)
                self._skip(max(0.0, left_s))
                end.set_result(None)
                quiet = 0

    def _skip(self, seconds: float) -> None:
        self._ahead_s += seconds
        self._on_skip(seconds)
