"""
The daily upload limit, computed from the bytes sent in each hour.

A day is any 24 hours. An hour counts until all of it is more than a day ago.
"""

from collections.abc import Mapping

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def hour_of(now_ms: int) -> int:
    """Return the start (Unix ms) of the hour of *now_ms*."""
    return now_ms - now_ms % HOUR_MS


def oldest_hour(now_ms: int) -> int:
    return hour_of(now_ms - DAY_MS)


def sent_within_a_day(sent: Mapping[int, int], now_ms: int) -> int:
    return sum(size for hour, size in sent.items() if hour >= oldest_hour(now_ms))


def next_allowed_ms(sent: Mapping[int, int], limit: int, now_ms: int) -> int:
    """Return when (Unix ms) the next body may be sent; *now_ms* if *limit* bytes are not reached."""
    total = sent_within_a_day(sent, now_ms)
    at_ms = now_ms
    for hour in sorted(hour for hour in sent if hour >= oldest_hour(now_ms)):
        if total < limit:
            break
        total -= sent[hour]
        at_ms = hour + HOUR_MS + DAY_MS
    return at_ms
