"""
Adaptive pace: how many API calls are sent per second.

A server does not publish how many calls it accepts, so the pace starts low and grows while calls wait for
their turn, are answered well and are answered about as fast as before. A throttled call shows the limit:
the pace halves, returns to just below the limit, and stays there for a while before it tries more.
Headers that announce the remaining calls bound it until they expire.
"""

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from syncd.types import Call

LEAST = 1.0
"""Calls per second, however often the server throttles, unless less is configured."""

UNPACED = 10.0
"""The start of a server that had no pace until it throttled."""

BURST = 10
"""The most calls that are sent at once after a time without calls, unless the server has throttled."""

SPAN_S = 1.0
"""The pace grows at most once in this time."""

GROWTH, CAREFUL_GROWTH = 1.5, 1.05
"""Factors per span, far below the known limit and beyond it."""

NEAR = 0.93
"""The share of the known limit to which the pace returns after a throttle."""

HALVED_S, REST_S = 2.0, 120.0
"""Seconds after a throttle until the pace may recover to just below the limit, and until it may exceed it."""

SPREAD_S = 300.0
"""The longest time in seconds over which announced calls are spread."""

SLOW_FACTOR, SLOW_S = 3.0, 0.25
"""An answer is slow if it takes this many times, plus these seconds, as long as the fastest one."""

_MEMBER = r"(?:^|[\s;,])(?:{})\s*=\s*([0-9]{{1,12}})(?![0-9])"
_REMAINING = re.compile(_MEMBER.format("r|remaining"))
_RESET = re.compile(_MEMBER.format("t|reset"))
_PLAIN = re.compile(r"^\s*([0-9]{1,12})\s*$")
_EPOCH = 1_000_000_000
"""Resets from here on are Unix times, not seconds."""


@dataclass(slots=True)
class AdaptivePace:
    """
    The pace of one server. All times are seconds of one monotonic clock.

    Args:
        start: Calls per second to begin with; infinite for a server that is not paced until it throttles.
        most: The largest number of calls per second.
        learned: The pace that an earlier run found, if any.
    """

    start: float
    most: float
    learned: float | None = None
    rate: float = field(init=False)
    limit: float | None = field(init=False, default=None)
    """The calls per second at which the server throttled, or None."""
    _booked_until_s: float = field(init=False, default=-math.inf)
    _sent: deque[float] = field(init=False, default_factory=lambda: deque(maxlen=1000))
    _fastest: dict[Call, float] = field(init=False, default_factory=dict)
    _since_s: float = field(init=False, default=0.0)
    _answers: int = field(init=False, default=0)
    _slow: int = field(init=False, default=0)
    _waited: bool = field(init=False, default=False)
    _throttled_s: float = field(init=False, default=-math.inf)
    _too_fast: bool = field(init=False, default=False)
    _announced: tuple[float, float] = field(init=False, default=(math.inf, 0.0))

    def __post_init__(self) -> None:
        self.rate = min(self.start, self.most)
        if self.learned is not None and math.isfinite(self.start):
            self.rate = min(max(self.learned, self._least), self.most)
            self.limit = self.rate / NEAR

    @property
    def _least(self) -> float:
        return min(LEAST, self.start, self.most)

    @property
    def level(self) -> float:
        """The pace to begin with next time: where the limit is known, just below it."""
        return self.rate if self.limit is None else min(NEAR * self.limit, self.most)

    def book(self, now_s: float) -> float:
        """Book a turn; returns the seconds until the call may be sent."""
        rate, until_s = self._announced
        rate = min(rate, self.rate) if now_s < until_s else self.rate
        burst_s = min(1.0, (BURST if self.limit is None else 1) / rate)
        self._booked_until_s = max(self._booked_until_s, now_s - burst_s) + 1 / rate
        wait_s = max(0.0, self._booked_until_s - now_s)
        self._waited = self._waited or wait_s > 0
        self._sent.append(now_s + wait_s)
        return wait_s

    def answered(self, now_s: float, call: Call, seconds: float) -> None:
        """Learn from a good answer that took *seconds*."""
        fastest = self._fastest[call] = min(self._fastest.get(call, seconds), seconds)
        self._answers += 1
        self._slow += seconds > SLOW_FACTOR * fastest + SLOW_S
        if now_s - self._since_s >= SPAN_S:
            if self._waited and 2 * self._slow <= self._answers:
                self._grow(now_s)
            self._since_s, self._answers, self._slow, self._waited = now_s, 0, 0, False

    def _grow(self, now_s: float) -> None:
        rested_s = now_s - self._throttled_s
        if rested_s < HALVED_S:
            return
        if self.limit is None:
            self.rate *= GROWTH
        elif self.rate < NEAR * self.limit:
            self.rate = min(self.rate * GROWTH, NEAR * self.limit)
        elif rested_s >= REST_S:
            self.rate *= CAREFUL_GROWTH
        self.rate = min(self.rate, self.most)

    def throttled(self, now_s: float) -> bool:
        """
        Learn from a throttled call; the others of the same moment count as one.

        Returns:
            Whether the pace was above its start, so that a lower one probably helps.
        """
        if now_s - self._throttled_s < HALVED_S:
            return self._too_fast
        sent = float(sum(now_s - 1 < at_s <= now_s for at_s in self._sent))
        if math.isinf(self.rate):
            self._too_fast = sent > UNPACED
        else:
            self._too_fast = self.rate > (UNPACED if math.isinf(self.start) else self.start)
            # If only a few calls were sent in the last second, the limit is not that low. Near a known
            # limit, it has hardly changed.
            known = self.limit is not None and self.rate <= self.limit
            sent = min(max(sent, self.rate * (0.9 if known else 0.5)), self.rate)
        self.limit = max(self._least, sent)
        self.rate = max(self._least, self.limit / 2)
        self._throttled_s = now_s
        return self._too_fast

    def announced(self, now_s: float, remaining: int, reset_s: float) -> None:
        """
        Obey a server that accepts *remaining* more calls in the next *reset_s* seconds.

        The calls are spread over ``SPREAD_S`` at most. When none remains, the server's pause is visible
        as a hold; a call that waits for its turn is not.
        """
        self._announced = (max(remaining, 1) / min(reset_s, SPREAD_S), now_s + reset_s)


def announced_limit(headers: Mapping[str, str], unix_s: float) -> tuple[int, float] | None:
    """
    Read how many more calls the server accepts, and for how many seconds that holds.

    Understands ``RateLimit`` in its draft forms, and the pairs ``RateLimit-Remaining`` and
    ``RateLimit-Reset`` with and without ``X-``. None if there is no such header or it makes no sense.
    """
    value = headers.get("ratelimit", "")
    remaining, reset = _number(_REMAINING, value), _number(_RESET, value)
    for prefix in ("", "x-"):
        if remaining is None or reset is None:
            remaining = _number(_PLAIN, headers.get(f"{prefix}ratelimit-remaining", ""))
            reset = _number(_PLAIN, headers.get(f"{prefix}ratelimit-reset", ""))
    if remaining is None or reset is None:
        return None
    reset_s = reset - unix_s if reset >= _EPOCH else float(reset)
    return (remaining, reset_s) if reset_s > 0 else None


def _number(pattern: re.Pattern[str], value: str) -> int | None:
    match = pattern.search(value)
    return None if match is None else int(match[1])
