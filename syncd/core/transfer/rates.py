"""
Bandwidth limits: parsing of rates, weekly timetables, a token bucket, and stalled bodies.

A rate is bytes per second, or None for no limit. A timetable has the syntax of rclone's ``--bwlimit``
("Bandwidth limit" in its documentation), so ``K``, ``M`` and ``G`` alone are powers of 1024.
"""

import bisect
import re
from dataclasses import dataclass

from syncd.core.jobs.error_mapping import to_error
from syncd.core.units import BYTES
from syncd.types import Kind

OFF = "off"
SLOWEST = 8 * 1024  # bytes per second; below, requests would time out at the object store
DAYS = 7
DAY_MINUTES = 24 * 60
CREDIT_S = 0.5  # unused capacity expires after this time, so that a burst does not follow a pause
SHARES_A_SECOND = 8
SMALLEST_SHARE = 1024

_UNITS = {
    **BYTES,
    **{f"{letter}bit": 1000**power // 8 for power, letter in enumerate("kMG", start=1)},
}
_PLAIN = "KiB"  # the default unit, as in rclone
_RATE = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,6})?)(?: ?(?P<unit>[A-Za-z]+)(?:/s)?)?")
_WITHIN_RATE = re.compile(rf"(?<=\d) (?=(?:{'|'.join(_UNITS)})(?:/s)?(?:[\s;]|$))")
_BETWEEN_ENTRIES = re.compile(r"[\s;]+")
_ENTRY = re.compile(
    r"(?:(?P<day>[A-Za-z]+)-)?(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d),(?P<rate>.+)"
)
_DAY_NUMBERS = {
    name: number
    for number, day in enumerate(
        ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    )
    for name in (day.lower(), day[:3].lower())
}


@dataclass(frozen=True, slots=True)
class Timetable:
    """
    The rate at any minute of the week.

    ``turns`` are pairs of (minutes since Monday 00:00, rate from then on) in ascending order. The last
    rate of the week applies until the first one.
    """

    turns: tuple[tuple[int, int | None], ...]

    @property
    def is_off(self) -> bool:
        return all(rate is None for _, rate in self.turns)

    def at(self, minute: int) -> int | None:
        return self.turns[bisect.bisect_right(self.turns, minute, key=lambda turn: turn[0]) - 1][1]


def parse_rate(text: str) -> int | None:
    """Parse ``10 MiB/s``, ``80 Mbit/s``, ``512K`` ``off``, or a number of KiB/s. Raises ValueError."""
    if text.lower() == OFF:
        return None
    match = _RATE.fullmatch(text)
    unit = match and (match["unit"] or _PLAIN)
    if match is None or unit not in _UNITS:
        raise ValueError("is not a rate such as 10 MiB/s, 80 Mbit/s or off")
    rate = int(float(match["number"]) * _UNITS[unit])
    if rate < SLOWEST:
        raise ValueError(
            f"is below {SLOWEST // 1024} KiB/s, where connections time out; "
            "to send nothing, pause or stop syncd"
        )
    return rate


def parse(text: str) -> Timetable:
    """
    Parse a rate, or a timetable such as ``08:00,512KiB 19:00,off Sat-00:00,off``.

    An entry without a day applies to every day, unless another entry has that day and the same minute.

    Raises:
        ValueError: Neither; the message names the first invalid entry.
    """
    if "," not in text:
        return Timetable(((0, parse_rate(text)),))
    daily: dict[int, int | None] = {}
    own: dict[int, int | None] = {}
    entries = _BETWEEN_ENTRIES.split(_WITHIN_RATE.sub("", text.strip(" ;")))
    for number, entry in enumerate(entries, start=1):
        match = _ENTRY.fullmatch(entry)
        named = "mon" if match is None or match["day"] is None else match["day"].lower()
        if match is None or named not in _DAY_NUMBERS:
            raise ValueError(
                f"entry {number} is not TIME,RATE such as 08:00,512KiB or Mon-09:00,off"
            )
        try:
            rate = parse_rate(match["rate"])
        except ValueError as error:
            raise ValueError(f"the rate of entry {number} {error}") from None
        minute = _DAY_NUMBERS[named] * DAY_MINUTES + int(match["hour"]) * 60 + int(match["minute"])
        turns = daily if match["day"] is None else own
        if minute in turns:
            raise ValueError(f"entry {number} has the same time as an earlier one")
        turns[minute] = rate
    week = {
        day * DAY_MINUTES + minute: rate for day in range(DAYS) for minute, rate in daily.items()
    }
    return Timetable(tuple(sorted((week | own).items())))


@dataclass(slots=True)
class Bucket:
    """
    A token bucket that limits all senders together to one rate, first come, first served.

    ``rate`` is bytes per second (0: send nothing), ``free_at_s`` when the next bytes may be sent.
    """

    rate: int
    free_at_s: float

    @property
    def share(self) -> int:
        """The most bytes to request at once, so that 32 senders take turns within four seconds."""
        return max(SMALLEST_SHARE, self.rate // SHARES_A_SECOND)

    def take(self, size: int, now_s: float) -> float:
        """Reserve *size* bytes and return when they may be sent, *now_s* or later."""
        if self.rate == 0:
            return float("inf")
        at_s = max(self.free_at_s, now_s - CREDIT_S)
        self.free_at_s = at_s + size / self.rate
        return max(at_s, now_s)


# -- stalled bodies: a trickling connection never times out by itself ---------------------------------

STALL_WINDOW_S = 300.0
STALLED_BYTES_PER_S = 1024


@dataclass(slots=True)
class StallDetector:
    """The progress of one body; ``since_s`` is the start of the current window."""

    since_s: float
    sent: int = 0
    stalled: bool = False

    def exclude(self, seconds: float) -> None:
        """Do not count *seconds* for which syncd itself held the body back."""
        self.since_s += seconds

    def add(self, count: int, now_s: float) -> None:
        """Count *count* more bytes. Raises Retryable below 1 KiB/s over the last five minutes."""
        self.sent += count
        passed_s = now_s - self.since_s
        if passed_s < STALL_WINDOW_S:
            return
        if self.sent < STALLED_BYTES_PER_S * passed_s:
            self.stalled = True
            raise to_error(
                Kind.NETWORK,
                f"only {self.sent} bytes were sent in {passed_s:.0f} s",
                unclear=True,
                timed_out=True,
            )
        self.since_s, self.sent = now_s, 0
