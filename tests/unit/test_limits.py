"""``upload.bandwidth``: parsing of rates and timetables, the token bucket, and its threads."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime

import pytest

from syncd.clock import SystemClock
from syncd.core.transfer.rates import (
    CREDIT_S,
    DAY_MINUTES,
    SLOWEST,
    STALL_WINDOW_S,
    Bucket,
    StallDetector,
    Timetable,
    parse,
    parse_rate,
)
from syncd.errors import Retryable
from syncd.fs.hashing import Stopped
from syncd.types import Kind
from syncd.upload.limits import Bandwidth

KIB, MIB = 1024, 1024 * 1024
# -- parsing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("off", None),
        ("10 MiB/s", 10 * MIB),
        ("80 Mbit/s", 10_000_000),
        ("100 kbit/s", 12_500),
        ("10", 10 * KIB),
    ],
)
def test_rate_is_parsed(text: str, rate: int | None) -> None:
    assert parse_rate(text) == rate
    assert parse(text) == Timetable(((0, rate),))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a rate such as 10 MiB/s"),
        ("10 Mb/s", "is not a rate such as 10 MiB/s"),  # megabit or megabyte?
        ("0 MiB/s", "is below 8 KiB/s, .*pause or stop syncd"),
        ("08:00,1M 24:00,off", "entry 2 is not TIME,RATE"),
        ("08:00,1M, 19:00,off", "the rate of entry 1 is not a rate"),
        ("Moon-08:00,1M", "entry 1 is not TIME,RATE"),
        ("08:00,1M 09:00,1", "the rate of entry 2 is below 8 KiB/s"),
        ("08:00,1M 09:00,off 08:00,off", "entry 3 has the same time as an earlier one"),
    ],
)
def test_invalid_timetable_is_refused_with_its_entry(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


def minute(day: int, hour: int, minutes: int = 0) -> int:
    """A minute of the week; Monday is 0."""
    return day * DAY_MINUTES + hour * 60 + minutes


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        (
            "08:00,512k 12:00,10M 13:00,512k 18:00,30M 23:00,off",
            {
                minute(0, 7, 59): None, minute(0, 8): 512 * KIB, minute(2, 12): 10 * MIB,
                minute(3, 13): 512 * KIB, minute(4, 18): 30 * MIB, minute(6, 23): None,
            },
        ),
        (
            "Mon-00:00,512 Fri-23:59,10M Sat-10:00,1M Sun-20:00,off",
            {
                minute(0, 0): 512 * KIB, minute(4, 23, 58): 512 * KIB,
                minute(4, 23, 59): 10 * MIB, minute(5, 10): MIB, minute(6, 20): None,
            },
        ),
        ("Monday-00:00,512;sunday-20:00,off", {minute(2, 9): 512 * KIB, minute(6, 21): None}),
        ("08:00,10 MiB/s 20:00,80 Mbit/s", {minute(1, 9): 10 * MIB, minute(1, 21): 10_000_000}),
    ],
)  # fmt: skip
def test_timetable_follows_rclone_syntax(text: str, rates: dict[int, int | None]) -> None:
    timetable = parse(text)

    assert {minute: timetable.at(minute) for minute in rates} == rates


# -- the token bucket -------------------------------------------------------------------------------


def test_bucket_serves_in_order_at_rate() -> None:
    bucket = Bucket(1000, 100.0)

    assert [bucket.take(500, 100.0) for _ in range(4)] == [100.0, 100.5, 101.0, 101.5]


def test_bucket_compensates_late_threads() -> None:
    bucket, now_s, sent = Bucket(10 * MIB, 0.0), 0.0, 0
    while now_s < 60:
        at_s = bucket.take(512 * KIB, now_s)
        now_s = at_s + 0.003  # threads wake up late
        sent += 512 * KIB

    assert sent == pytest.approx(60 * 10 * MIB, rel=0.01)


def test_bucket_allows_no_burst_after_pause() -> None:
    bucket = Bucket(1000, 0.0)

    at_once = sum(bucket.take(10, 1000.0) == 1000.0 for _ in range(200))

    assert at_once == CREDIT_S * 1000 / 10 + 1


def test_slowest_rate_gives_32_senders_a_turn_in_four_seconds() -> None:
    bucket = Bucket(SLOWEST, 0.0)
    turns = [bucket.take(bucket.share, 0.0) for _ in range(33)]

    assert turns[32] - turns[0] <= 4


def test_body_held_back_by_limit_does_not_stall() -> None:
    stall = StallDetector(0.0)
    stall.exclude(2 * STALL_WINDOW_S)
    stall.add(1, 2 * STALL_WINDOW_S + 1)

    assert not stall.stalled


# -- threads ---------------------------------------------------------------------------------------


class Calendar(SystemClock):
    """A clock with a fixed date."""

    now = datetime(2026, 3, 2, 7, 59)  # a Monday in local time

    def now_ms(self) -> int:
        return int(self.now.timestamp() * 1000)


class Senders:
    """Simulated bodies, each sent by its own thread."""

    def __init__(self, bandwidth: Bandwidth) -> None:
        self.sent = 0
        self.waited_s = 0.0
        self.stop = threading.Event()
        self._bandwidth = bandwidth
        self._lock = threading.Lock()

    def send(self) -> bool:
        """Send until stopped; return whether the bandwidth limit noticed the stop."""
        pieces = iter(lambda: bytes(512 * KIB), b"")
        try:
            for _ in self._bandwidth.paced(
                pieces, stop=self.stop, on_wait=self._wait, on_bytes=self._count
            ):
                if self.stop.is_set():
                    return False
        except Stopped:
            return True
        return False

    def _count(self, size: int) -> None:
        with self._lock:
            self.sent += size

    def _wait(self, seconds: float) -> None:
        with self._lock:
            self.waited_s += seconds


@contextmanager
def sending(bandwidth: Bandwidth, threads: int = 4) -> Iterator[Senders]:
    senders = Senders(bandwidth)
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(senders.send)
        try:
            yield senders
        finally:
            senders.stop.set()


def sent_over(senders: Senders, seconds: float) -> tuple[int, float]:
    """Return the bytes sent from now on and the time that it took."""
    before, began_s = senders.sent, time.monotonic()
    time.sleep(seconds)
    return senders.sent - before, time.monotonic() - began_s


def require_rate(rate: int, senders: Senders) -> None:
    """Require at most the rate plus the credit, and at least a third of it."""
    sent_over(senders, 0.2)  # bytes of the previous rate
    sent, seconds = sent_over(senders, 1.0)
    assert rate * seconds / 3 < sent <= rate * (seconds + CREDIT_S)


def test_threads_share_rate_and_follow_change() -> None:
    bandwidth = Bandwidth(parse("4 MiB/s"), SystemClock())
    with sending(bandwidth) as senders:
        require_rate(4 * MIB, senders)
        bandwidth.limit(1 * MIB)
        require_rate(1 * MIB, senders)

    assert senders.waited_s > 4


def test_waiting_thread_ends_on_stop() -> None:
    bandwidth = Bandwidth(parse("1 MiB/s"), SystemClock())
    bandwidth.at_most(0)
    senders = Senders(bandwidth)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(senders.send)
        time.sleep(0.05)
        senders.stop.set()

        assert ended.result(60)
    assert senders.sent == 0


def test_lower_of_limit_and_ceiling_applies() -> None:
    bandwidth = Bandwidth(parse("off"), SystemClock())
    seen = [bandwidth.rate]
    bandwidth.at_most(100)
    seen.append(bandwidth.rate)
    bandwidth.limit(50)
    seen.append(bandwidth.rate)
    bandwidth.limit(None)
    seen.append(bandwidth.rate)
    bandwidth.at_most(None)
    seen.append(bandwidth.rate)

    assert seen == [None, 100, 50, 100, None]


def test_timetable_uses_wall_clock() -> None:
    clock = Calendar()
    bandwidth = Bandwidth(parse("08:00,1M 19:00,off Tue-06:00,2M"), clock)
    seen = []
    for day, hour in [(2, 7), (2, 8), (2, 19), (3, 6)]:
        clock.now = datetime(2026, 3, day, hour)
        seen.append(bandwidth.rate)

    assert seen == [None, MIB, None, 2 * MIB]


# -- stalled bodies --------------------------------------------------------------------------------


def test_F28_body_below_1_kib_per_second_for_five_minutes_stalls() -> None:
    stall = StallDetector(100.0)
    stall.add(300 * 1024 - 1, 399.9)
    with pytest.raises(Retryable) as caught:
        stall.add(0, 400.0)
    assert caught.value.kind is Kind.NETWORK
    assert caught.value.timed_out
    assert caught.value.unclear
    assert stall.stalled


def test_F28_each_window_is_measured_separately() -> None:
    stall = StallDetector(0.0)
    stall.add(10 * 1024 * 1024, 300.0)
    stall.add(1024, 599.0)
    assert not stall.stalled
    with pytest.raises(Retryable):
        stall.add(1024, 600.0)
