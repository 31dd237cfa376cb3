"""
Adaptive concurrency: the number of requests that send at the same time.

More streams help on a link with a high latency and hurt on a short one, and only a trial can show which.
A trial runs with more requests for a few seconds and keeps them if the rate rose. At first each trial
doubles the number. After a failed trial, or after the object store throttled, a trial adds one request now
and then, and doubling starts again after an hour.

The rate is measured from bytes on the wire. If bodies end quickly, the measurement also includes their ends
and the pauses before the next ones, which more requests would fill. A span is not used while the bandwidth
limit is reached, if the limit changed, or if nothing was sent.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

SETTLE_S, COUNT_S = 1.0, 2.0  # the shortest phases of a trial; the first does not count
SETTLE_BYTES, COUNT_BYTES = 512 * 1024, 1024 * 1024  # the least bytes per request in each phase
PATIENCE_S = 3.5  # the longest wait of a trial for as many bodies to end as are being sent
GAIN = 1.05  # the factor by which the rate must rise for a trial to succeed
REST_S = 60.0  # the pause after a failed trial or a throttle
SINGLE_S = 3600.0  # the time after which trials double the number again
REACHED = 0.95  # the share of the bandwidth limit from which on more requests cannot help
GAP_S = 3.0  # the gap between two samples after which the measurement starts again
UNASKED_S = 1.0  # slots that are not requested for this long are not needed
THROTTLE_S = 5.0  # throttles within this time count as one: all running requests get the same
REGAIN_AFTER = 50  # successful bodies before a lost slot is regained


@dataclass(slots=True)
class AdaptiveConcurrency:
    """The number of concurrent requests: from 1 to *most*, first and after losses *start*."""

    start: int
    most: int
    limit: int = field(init=False)
    _good: int = 0
    _rest_until_s: float = 0.0
    _single_until_s: float = 0.0
    _held_to: int | None = None
    _sampled_s: float = -GAP_S
    _before: tuple[int, float] | None = None
    _since: tuple[float, int] | None = None
    _counts: bool = False
    _ended: int = 0
    _asked: int = 0
    _unasked_s: float | None = None
    _throttled_s: float = -THROTTLE_S

    def __post_init__(self) -> None:
        self.limit = self.start

    def resize(self, start: int, most: int) -> None:
        """Change the bounds; keep the current number if it is between them."""
        self._revert()
        if start != self.start:
            self.limit = start
        self.start, self.most = start, most
        self.limit = min(self.limit, most)

    def body_succeeded(self) -> None:
        self._ended += 1
        self._good += 1
        if self.limit < self.start and self._good >= REGAIN_AFTER:
            self._good = 0
            self.limit += 1

    def sample(self, sent: int, now_s: float, *, asked: int, held_to: int | None) -> None:
        """
        Take a sample, and end or start a trial if it is time.

        Args:
            sent: Bytes sent so far by all requests.
            asked: Requests that run or wait for a slot.
            held_to: The bandwidth limit in bytes per second; None: no limit.
        """
        self._asked = max(self._asked, asked)
        if self._is_another_span(held_to, now_s):
            self._revert()
        if self._is_unasked(asked, now_s):
            self._revert()
        elif self.limit < self.start:
            self._since = None
        elif self._since is None:
            self._open(sent, now_s, counts=False)
        elif not self._counts:
            if self._passed(sent, now_s, SETTLE_S, SETTLE_BYTES):
                self._open(sent, now_s, counts=True)
        elif self._passed(sent, now_s, COUNT_S, COUNT_BYTES) and (
            self._ended >= self.limit or self._passed(sent, now_s, PATIENCE_S, 0)
        ):
            since_s, before = self._since
            self._judge((sent - before) / (now_s - since_s), now_s)
            self._open(sent, now_s, counts=False)

    def lose_one(self, now_s: float) -> None:
        self._shrink(lambda limit: limit - 1, now_s)

    def halve(self, now_s: float) -> None:
        self._shrink(lambda limit: limit // 2, now_s)

    def _is_another_span(self, held_to: int | None, now_s: float) -> bool:
        before, sampled_s = self._held_to, self._sampled_s
        self._held_to, self._sampled_s = held_to, now_s
        return held_to != before or now_s - sampled_s > GAP_S

    def _is_unasked(self, asked: int, now_s: float) -> bool:
        """Return whether fewer slots than the limit were requested for some time."""
        if asked >= self.limit:
            self._unasked_s = None
        elif self._unasked_s is None:
            self._unasked_s = now_s
        return self._unasked_s is not None and now_s - self._unasked_s >= UNASKED_S

    def _passed(self, sent: int, now_s: float, seconds: float, bytes_each: int) -> bool:
        assert self._since is not None
        since_s, before = self._since
        return now_s - since_s >= seconds and sent - before >= bytes_each * self.limit

    def _judge(self, rate: float, now_s: float) -> None:
        """End a measurement: keep or revert the trial, and start the next one if it is time."""
        if self._before is not None:
            limit, rate_before = self._before
            if rate < rate_before * GAIN:
                self._rest(now_s, single=self.limit > limit + 1)
                self.limit = limit
        self._before = None
        most = min(self._asked, self.most)
        is_held = self._held_to is not None and rate >= self._held_to * REACHED
        if now_s >= self._rest_until_s and self.limit < most and not is_held:
            self._before = self.limit, rate
            doubling = now_s >= self._single_until_s
            self.limit = min(self.limit * 2 if doubling else self.limit + 1, most)

    def _open(self, sent: int, now_s: float, *, counts: bool) -> None:
        self._since, self._counts = (now_s, sent), counts
        self._ended = self._asked = 0

    def _revert(self) -> None:
        if self._before is not None:
            self.limit, _ = self._before
        self._since = self._before = None

    def _rest(self, now_s: float, *, single: bool) -> None:
        self._rest_until_s = now_s + REST_S
        if single:
            self._single_until_s = now_s + SINGLE_S

    def _shrink(self, less: Callable[[int], int], now_s: float) -> None:
        self._revert()
        self._good = 0
        self._rest(now_s, single=True)
        if now_s - self._throttled_s >= THROTTLE_S:
            self._throttled_s = now_s
            self.limit = max(1, less(self.limit))
