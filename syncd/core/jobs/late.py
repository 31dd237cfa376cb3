"""How long a request whose response was lost may still take effect."""

LATEST_S = 90.0
"""Seconds after which no server executes a request of a lost client. Proxies give up after 60."""


def wait_s(sent_at: int, now_ms: int, latest_s: float) -> float:
    """
    Return the seconds until a request can no longer take effect, at most *latest_s*.

    Args:
        sent_at: When the intent was committed, Unix milliseconds.
        latest_s: Seconds after which a request can no longer take effect.
    """
    return min(max(0.0, latest_s - (now_ms - sent_at) / 1000), latest_s)
