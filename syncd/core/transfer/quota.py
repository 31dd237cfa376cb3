"""
How many bytes may leave within a day, told from what left in each hour.

A day is any 24 hours. An hour counts until all of it is a day ago, so the limit is never passed by
more than the bodies that were under way when it was reached.
"""

from collections.abc import Mapping

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def hour_of(now_ms: int) -> int:
    """The beginning of the hour (Unix ms) that what leaves now is counted to."""
    return now_ms - now_ms % HOUR_MS


def oldest_hour(now_ms: int) -> int:
    """The first hour that still counts."""
    return hour_of(now_ms - DAY_MS)


def left_within_a_day(sent: Mapping[int, int], now_ms: int) -> int:
    """The bytes that count now; *sent* holds bytes by hour."""
    return sum(size for hour, size in sent.items() if hour >= oldest_hour(now_ms))


def next_allowed_ms(sent: Mapping[int, int], limit: int, now_ms: int) -> int:
    """When (Unix ms) the next body may leave: *now_ms* if there is room under *limit* bytes now."""
    left = left_within_a_day(sent, now_ms)
    at_ms = now_ms
    for hour in sorted(hour for hour in sent if hour >= oldest_hour(now_ms)):
        if left < limit:
            break
        left -= sent[hour]
        at_ms = hour + HOUR_MS + DAY_MS
    return at_ms
