"""How long a request whose answer was lost may still take effect."""

LATEST_S = 90.0
"""Seconds after which no server carries out a request whose client left: proxies give up after 60."""


def wait_s(sent_at: int, now_ms: int, latest_s: float) -> float:
    """
    Seconds until a request can no longer take effect: from 0 to *latest_s*, whatever the clock does.

    Args:
        sent_at: When its intent was committed, Unix milliseconds.
        latest_s: Seconds after which a request cannot arrive any more.
    """
    return min(max(0.0, latest_s - (now_ms - sent_at) / 1000), latest_s)
