"""
A limit for the number of log lines.

A burst is written completely, a longer stream is limited to a rate, and errors have a reserve. The same
warning or error is written a few times a minute and then only counted.
"""

from collections import Counter
from dataclasses import dataclass

LINES_PER_S = 10.0  # the sustained rate
BURST = 600  # the largest number of lines at once: a minute's worth
RESERVED = 100  # the part of the burst that is reserved for warnings and errors
SAME_MOST, SAME_S = 10, 60.0  # how often the same trouble is written within how many seconds
TROUBLES_MOST = 1000  # the largest number of different troubles that are counted at a time
REPORT_S = 10.0  # the shortest time between two reports of suppressed lines


@dataclass(slots=True)
class _Repeated:
    since_s: float
    times: int = 0


class LogLimiter:
    """A token bucket for log lines. Times are seconds on any monotonic clock."""

    def __init__(self, now_s: float) -> None:
        self._tokens = float(BURST)
        self._at_s = self._reported_s = now_s
        self._repeated: dict[str, _Repeated] = {}
        self._suppressed: Counter[str] = Counter()

    def admit(self, event: str, now_s: float, *, trouble: str | None = None) -> bool:
        """
        Return whether a line may be written; if not, count it under its *event*.

        Args:
            trouble: The text of a warning or an error without its variable fields.
        """
        self._refill(now_s)
        repeated = trouble is not None and self._is_repeated(trouble, now_s)
        if repeated or self._tokens < 1 + (RESERVED if trouble is None else 0):
            self._suppressed[event] += 1
            return False
        self._tokens -= 1
        return True

    def suppressed(self, now_s: float, *, at_once: bool = False) -> dict[str, int]:
        """
        Return the number of suppressed lines by event if a report is due.

        Args:
            at_once: The log ends now, so that the report is due.
        """
        self._refill(now_s)
        due = self._tokens >= 1 and now_s - self._reported_s >= REPORT_S
        if not self._suppressed or not (due or at_once):
            return {}
        suppressed, self._suppressed = dict(self._suppressed), Counter()
        self._reported_s = now_s
        self._tokens = max(0.0, self._tokens - 1)
        return suppressed

    def _refill(self, now_s: float) -> None:
        self._tokens = min(BURST, self._tokens + (now_s - self._at_s) * LINES_PER_S)
        self._at_s = now_s

    def _is_repeated(self, trouble: str, now_s: float) -> bool:
        repeated = self._repeated.get(trouble)
        if repeated is None or now_s - repeated.since_s >= SAME_S:
            if len(self._repeated) >= TROUBLES_MOST:
                self._repeated.clear()
            repeated = self._repeated[trouble] = _Repeated(now_s)
        repeated.times += 1
        return repeated.times > SAME_MOST
