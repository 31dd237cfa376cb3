"""
Limits on bandwidth and on concurrent requests, shared by all threads that move bytes.

Threads wait here before each piece, never inside a socket's write. They notice a change (the hour of
the timetable, a new limit, a stopped job) within half a second.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

from syncd.clock import Clock
from syncd.core.transfer.concurrency import AdaptiveConcurrency
from syncd.core.transfer.rates import DAY_MINUTES, Bucket, Timetable
from syncd.fs.hashing import Flag, Stopped

LOOK_S = 0.5
"""Interval at which a waiting thread checks whether it still has to wait."""


class Bandwidth:
    """
    One rate limit for many threads.

    Args:
        timetable: The rates by hour of the local time; valid until ``follow`` or ``limit``.
    """

    def __init__(self, timetable: Timetable, clock: Clock) -> None:
        self._clock = clock
        self._timetable: Timetable = timetable
        self._ceiling: int | None = None
        self._changed = threading.Condition()
        self._bucket: Bucket | None = None
        self._unlimited = timetable.is_off

    @property
    def rate(self) -> int | None:
        """The current limit in bytes a second; None: no limit."""
        with self._changed:
            return self._rate()

    def follow(self, timetable: Timetable) -> None:
        """Use *timetable* from now on."""
        with self._changed:
            self._timetable = timetable
            self._look()

    def limit(self, bytes_per_s: int | None) -> None:
        """Use one rate at all hours until the next ``follow``; None: no limit."""
        self.follow(Timetable(((0, bytes_per_s),)))

    def at_most(self, bytes_per_s: int | None) -> None:
        """Set a ceiling that overrides higher limits; 0: no byte moves; None: remove the ceiling."""
        with self._changed:
            self._ceiling = bytes_per_s
            self._look()

    def _look(self) -> None:
        # Checked for each piece: without a limit there is no lock and no clock.
        self._unlimited = self._ceiling is None and self._timetable.is_off
        self._changed.notify_all()

    def paced(
        self,
        pieces: Iterable[bytes],
        *,
        stop: Flag,
        on_wait: Callable[[float], None],
        on_bytes: Callable[[int], None],
    ) -> Iterator[bytes | memoryview]:
        """
        Yield *pieces* at the limited rate, cut smaller if the rate is low.

        Args:
            on_wait: Called with the seconds that a piece was held back.
            on_bytes: Called with the number of bytes before they are yielded.

        Raises:
            Stopped: *stop* was set while a piece waited.
        """
        for piece in pieces:
            if self._unlimited:
                on_bytes(len(piece))
                yield piece
                continue
            offset = 0
            while offset < len(piece):
                began_s = self._clock.boottime_s()
                size = self._turn(len(piece) - offset, stop)
                on_wait(self._clock.boottime_s() - began_s)
                on_bytes(size)
                yield piece if size == len(piece) else memoryview(piece)[offset : offset + size]
                offset += size

    def spend(self, size: int, *, stop: Flag) -> None:
        """
        Wait until *size* bytes may go.

        Raises:
            Stopped: *stop* was set during the wait.
        """
        while size > 0 and not self._unlimited:
            size -= self._turn(size, stop)

    def _turn(self, wanted: int, stop: Flag) -> int:
        """Wait; the number of bytes that may move then, at most *wanted*."""
        with self._changed:
            while (bucket := self._bucket_now()) is not None:
                size = min(wanted, bucket.share)
                if self._wait(bucket, bucket.take(size, self._clock.boottime_s()), stop):
                    return size
            return wanted

    def _wait(self, bucket: Bucket, until_s: float, stop: Flag) -> bool:
        """Wait; False if *bucket* was replaced."""
        while (left_s := until_s - self._clock.boottime_s()) > 0:
            if stop.is_set():
                raise Stopped
            self._changed.wait(min(left_s, LOOK_S))
            if self._bucket_now() is not bucket:
                return False
        return True

    def _bucket_now(self) -> Bucket | None:
        """The bucket of the current rate; each change of the rate makes a new one."""
        rate = self._rate()
        if rate is None:
            self._bucket = None
        elif self._bucket is None or self._bucket.rate != rate:
            self._bucket = Bucket(rate, self._clock.boottime_s())
        return self._bucket

    def _rate(self) -> int | None:
        now = time.localtime(self._clock.now_ms() / 1000)
        minute = now.tm_wday * DAY_MINUTES + now.tm_hour * 60 + now.tm_min
        rates = (self._timetable.at(minute), self._ceiling)
        return min((rate for rate in rates if rate is not None), default=None)


class ConcurrencyLimiter:
    """
    Limits concurrent requests to the current limit of *width*.

    Args:
        width: Adapts its limit to the throughput.
    """

    def __init__(self, width: AdaptiveConcurrency) -> None:
        self.width = width
        self._busy = self._waiting = 0
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Occupy a slot for the duration of the block."""
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
            self._notify()

    def look(self, sent: int, now_s: float, *, held_to: int | None) -> None:
        """
        Let the limit adapt to the throughput so far.

        Args:
            sent: Total bytes sent by *now_s*.
            held_to: The bandwidth limit in bytes a second; None: no limit.
        """
        self.width.sample(sent, now_s, asked=self._busy + self._waiting, held_to=held_to)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
