"""
How fast bytes may go: rates as people write them, weekly timetables, and the bucket that keeps to one.

A rate is bytes a second, None where nothing is limited. A timetable has the syntax of rclone's
``--bwlimit`` ("Bandwidth limit" in its documentation), so ``K``, ``M`` and ``G`` alone are powers of
1024 here, too.
"""

import bisect
import re
from dataclasses import dataclass

from syncd.core.units import BYTES

OFF = "off"
SLOWEST = 8 * 1024
"""Bytes a second: with less for all bodies under way, the store would give up waiting for some."""

DAYS = 7
DAY_MINUTES = 24 * 60

CREDIT_S = 0.5
"""What was not used within this time is lost: a pause is not made up for by a flood."""

SHARES_A_SECOND = 8
SMALLEST_SHARE = 1024

_UNITS = {
    **BYTES,
    **{f"{letter}bit": 1000**power // 8 for power, letter in enumerate("kMG", start=1)},
}
_PLAIN = "KiB"
"""The unit of a number without one, as in rclone."""

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

    ``turns`` are (minutes since Monday 00:00, rate from then on), rising; the last one of the week
    is in force until the first.
    """

    turns: tuple[tuple[int, int | None], ...]

    @property
    def is_off(self) -> bool:
        """Is nothing limited at any time?"""
        return all(rate is None for _, rate in self.turns)

    def at(self, minute: int) -> int | None:
        """The rate at *minute*, counted from Monday 00:00."""
        return self.turns[bisect.bisect_right(self.turns, minute, key=lambda turn: turn[0]) - 1][1]


def parse_rate(text: str) -> int | None:
    """
    ``10 MiB/s``, ``80 Mbit/s``, ``512K`` or ``off``; a plain number is KiB/s.

    Raises:
        ValueError: It is no rate, or one below ``SLOWEST``.
    """
    if text.lower() == OFF:
        return None
    match = _RATE.fullmatch(text)
    unit = match and (match["unit"] or _PLAIN)
    if match is None or unit not in _UNITS:
        raise ValueError("is not a rate such as 10 MiB/s, 80 Mbit/s or off")
    rate = int(float(match["number"]) * _UNITS[unit])
    if rate < SLOWEST:
        raise ValueError(
            f"is below {SLOWEST // 1024} KiB/s, with which connections would time out; "
            "to send nothing, stop or pause syncd"
        )
    return rate


def parse(text: str) -> Timetable:
    """
    A rate, or a timetable such as ``08:00,512KiB 19:00,off Sat-00:00,off``.

    An entry without a day counts on every day; an entry that names the day and the same minute
    wins. Entries are separated by spaces or semicolons.

    Raises:
        ValueError: It is neither, with the number of the first entry at fault.
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
            raise ValueError(f"entry {number} names the time of an earlier one")
        turns[minute] = rate
    week = {
        day * DAY_MINUTES + minute: rate for day in range(DAYS) for minute, rate in daily.items()
    }
    return Timetable(tuple(sorted((week | own).items())))


@dataclass(slots=True)
class Bucket:
    """
    What keeps all takers together to one rate, first come, first served.

    Args:
        rate: Bytes a second; 0: nothing goes.
        free_at_s: When the next bytes may go, on any clock that does not go back.
    """

    rate: int
    free_at_s: float

    @property
    def share(self) -> int:
        """
        Bytes that one taker should ask for at once, at most.

        So few that 32 takers get their turn every four seconds: a body that rests longer than its
        store's patience is broken off.
        """
        return max(SMALLEST_SHARE, self.rate // SHARES_A_SECOND)

    def take(self, size: int, now_s: float) -> float:
        """When *size* bytes may go, *now_s* or later."""
        if self.rate == 0:
            return float("inf")
        at_s = max(self.free_at_s, now_s - CREDIT_S)
        self.free_at_s = at_s + size / self.rate
        return max(at_s, now_s)
