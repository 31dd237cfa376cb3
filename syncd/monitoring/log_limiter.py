"""
How much of what is said is written down: a bounded number of lines, and none lost in silence.

A burst of lines (a first walk that meets a thousand files) passes whole. What goes on for longer is
cut to a rate, errors last. One and the same trouble, said over and over, is written a few times a
minute and counted from then on.
"""

from collections import Counter
from dataclasses import dataclass

LINES_PER_S = 10.0
"""Sustained, whatever happens."""

BURST = 600
"""Lines that may come at once: a minute's worth."""

RESERVED = 100
"""Of these, for warnings and errors only."""

SAME_MOST, SAME_S = 10, 60.0
"""A trouble is written so often within so many seconds."""

TROUBLES_MOST = 1000
"""Different troubles that are told apart at a time."""

TOLD_EVERY_S = 10.0


@dataclass(slots=True)
class _Said:
    since_s: float
    times: int = 0


class LogLimiter:
    """A meter of lines. Times are seconds of any clock that does not go back."""

    def __init__(self, now_s: float) -> None:
        self._tokens = float(BURST)
        self._at_s = self._told_s = now_s
        self._said: dict[str, _Said] = {}
        self._left: Counter[str] = Counter()

    def admit(self, event: str, now_s: float, *, trouble: str | None = None) -> bool:
        """
        May this line be written? If not, it is counted under its *event*.

        Args:
            trouble: What a warning or an error says, without what differs from case to case.
        """
        self._refill(now_s)
        repeated = trouble is not None and self._is_repeated(trouble, now_s)
        if repeated or self._tokens < 1 + (RESERVED if trouble is None else 0):
            self._left[event] += 1
            return False
        self._tokens -= 1
        return True

    def left_out(self, now_s: float, *, at_once: bool = False) -> dict[str, int]:
        """
        Lines left out since this was told last, by event; it is told every few seconds at most.

        Args:
            at_once: Nothing comes after this.
        """
        self._refill(now_s)
        due = self._tokens >= 1 and now_s - self._told_s >= TOLD_EVERY_S
        if not self._left or not (due or at_once):
            return {}
        left, self._left = dict(self._left), Counter()
        self._told_s = now_s
        self._tokens = max(0.0, self._tokens - 1)
        return left

    def _refill(self, now_s: float) -> None:
        self._tokens = min(BURST, self._tokens + (now_s - self._at_s) * LINES_PER_S)
        self._at_s = now_s

    def _is_repeated(self, trouble: str, now_s: float) -> bool:
        said = self._said.get(trouble)
        if said is None or now_s - said.since_s >= SAME_S:
            if len(self._said) >= TROUBLES_MOST:
                self._said.clear()
            said = self._said[trouble] = _Said(now_s)
        said.times += 1
        return said.times > SAME_MOST
