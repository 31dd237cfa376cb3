"""The throughput of past uploads: bytes divided by the time in which any upload was running."""

from collections.abc import Iterable


def bytes_per_s(uploads: Iterable[tuple[int, int, int]]) -> float | None:
    """
    Return the rate of uploads that may overlap; None if there are none.

    Args:
        uploads: (start, end, bytes) of each, times in Unix milliseconds.
    """
    busy_ms = total = 0
    until_ms = None
    for began_ms, ended_ms, size in sorted(uploads):
        fresh_ms = began_ms if until_ms is None else max(began_ms, until_ms)
        busy_ms += max(0, ended_ms - fresh_ms)
        until_ms = ended_ms if until_ms is None else max(until_ms, ended_ms)
        total += size
    return total * 1000 / max(busy_ms, 1) if total else None
