"""
``upload.bandwidth``: how fast bytes may go, for all threads that move them together.

Threads wait here, before a piece and never inside a socket's write. Whatever changes meanwhile (the
hour of the timetable, a limit that somebody sets, a job that is told to stop) is noticed within
half a second.
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
"""Between looks, while a thread waits, whether it still has to."""


class Bandwidth:
    """
    One limit over many threads.

    Args:
        timetable: In force until ``limit`` sets something else; its hours are this machine's.
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
        """Bytes a second that may go now; None: any number."""
        with self._changed:
            return self._rate()

    def follow(self, timetable: Timetable) -> None:
        """From now on *timetable* is in force."""
        with self._changed:
            self._timetable = timetable
            self._look()

    def limit(self, bytes_per_s: int | None) -> None:
        """One rate at all hours, until the next ``follow``; None: no limit."""
        self.follow(Timetable(((0, bytes_per_s),)))

    def at_most(self, bytes_per_s: int | None) -> None:
        """Stay below *bytes_per_s* whatever else allows more; 0: nothing goes; None: no longer."""
        with self._changed:
            self._ceiling = bytes_per_s
            self._look()

    def _look(self) -> None:
        # For those who are not limited there is no lock and no clock: this is asked for each piece.
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
        *pieces* as fast as they may go, cut smaller where that is slow.

        Args:
            on_wait: Called with the seconds that a piece was held back.
            on_bytes: Called with the bytes that are handed on next.

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
            Stopped: *stop* was set meanwhile.
        """
        while size > 0 and not self._unlimited:
            size -= self._turn(size, stop)

    def _turn(self, wanted: int, stop: Flag) -> int:
        """Wait for one's turn; the bytes that may go then, at most *wanted*."""
        with self._changed:
            while (bucket := self._bucket_now()) is not None:
                size = min(wanted, bucket.share)
                if self._wait(bucket, bucket.take(size, self._clock.boottime_s()), stop):
                    return size
            return wanted

    def _wait(self, bucket: Bucket, until_s: float, stop: Flag) -> bool:
        """Wait; False if *bucket* is not the one in force any more."""
        while (left_s := until_s - self._clock.boottime_s()) > 0:
            if stop.is_set():
                raise Stopped
            self._changed.wait(min(left_s, LOOK_S))
            if self._bucket_now() is not bucket:
                return False
        return True

    def _bucket_now(self) -> Bucket | None:
        """The bucket of the rate in force: a new one after each change, whoever waits asks anew."""
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
    Permission to send: at most as many at once as *width* says.

    Args:
        width: Changed by how the bodies fare.
    """

    def __init__(self, width: AdaptiveConcurrency) -> None:
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
        self.width.sample(sent, now_s, asked=self._busy + self._waiting, held_to=held_to)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
