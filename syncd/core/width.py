"""
How many requests send at once: more while that brings more bytes through, fewer when asked.

More streams help on a long link and cost on a short one, and nothing tells which it is but trying.
So more are tried, for a few seconds: they stay if they paid, else they go again. At first each try
doubles the number, so that a long line is filled within seconds; after one that did not pay, or once
the store asked for less, one more is tried now and then.

A rate is taken from bytes on their way and never from bodies that ended: where streams are slow, a
body takes minutes, and there more of them are needed most.
"""

from dataclasses import dataclass, field

SPAN_S = 3.0
"""A try takes so long at least; its first third does not count."""

SPAN_BYTES = 3 * 512 * 1024
"""And so many bytes a request: what first fills the sockets' buffers has reached nobody."""

GAIN = 1.05
"""What a try has to bring, as a factor, to be kept."""

REST_S = 60.0
"""After a try that did not pay, or a store that asked for less, before the next."""

REGAIN_AFTER = 50
"""Bodies in a row that must get through before one that was lost comes back."""


@dataclass(slots=True)
class Width:
    """
    The number of requests at once, between 1 and *most*.

    Args:
        start: At the beginning, and what is regained after a loss.
        most: Never more than this.
    """

    start: int
    most: int
    limit: int = field(init=False)
    _good: int = 0
    _doubling: bool = True
    _rest_until_s: float = 0.0
    _before: tuple[int, float] | None = None
    _since: tuple[float, int] | None = None
    _counts: bool = False

    def __post_init__(self) -> None:
        self.limit = self.start

    def resize(self, start: int, most: int) -> None:
        """Other bounds, from now on; what was found by trying is kept where it lies between them."""
        if start != self.start:
            self.limit = start
        self.start, self.most = start, most
        self.limit = min(self.limit, most)
        self._since = self._before = None

    def went_well(self) -> None:
        """A body got through."""
        self._good += 1
        if self.limit < self.start and self._good >= REGAIN_AFTER:
            self._good = 0
            self.limit += 1

    def look(self, sent: int, now_s: float, *, asked: int) -> None:
        """
        Keep what is tried, or not, and try more where it is time.

        Args:
            sent: Bytes that went to the wire so far, of all bodies.
            now_s: On any clock that does not go back.
            asked: Requests that run or wait for their turn.
        """
        if asked < self.limit:
            self._give_back()
        elif self.limit < self.start:
            self._since = None
        elif self._since is None:
            self._since, self._counts = (now_s, sent), False
        else:
            since_s, before = self._since
            share = 2 / 3 if self._counts else 1 / 3
            if now_s - since_s < share * SPAN_S or sent - before < share * SPAN_BYTES * self.limit:
                return
            if self._counts:
                self._judge((sent - before) / (now_s - since_s), now_s, asked)
            self._since, self._counts = (now_s, sent), not self._counts

    def lose_one(self, now_s: float) -> None:
        """A body stalled: fewer of them may fare better."""
        self._shrink(self.limit - 1, now_s)

    def halve(self, now_s: float) -> None:
        """The store asked for less."""
        self._shrink(self.limit // 2, now_s)

    def _judge(self, rate: float, now_s: float, asked: int) -> None:
        """A span is over: keep what was tried, or not, and try more where it is time."""
        if self._before is not None:
            limit, rate_before = self._before
            if rate < rate_before * GAIN:
                self.limit = limit
                self._rest(now_s)
        self._before = None
        most = min(asked, self.most)
        if now_s >= self._rest_until_s and self.limit < most:
            self._before = self.limit, rate
            self.limit = min(self.limit * 2 if self._doubling else self.limit + 1, most)

    def _give_back(self) -> None:
        """What was tried without being needed is no trial."""
        if self._before is not None:
            self.limit, _ = self._before
        self._since = self._before = None

    def _rest(self, now_s: float) -> None:
        self._doubling = False
        self._rest_until_s = now_s + REST_S

    def _shrink(self, limit: int, now_s: float) -> None:
        self.limit = max(1, limit)
        self._good = 0
        self._rest(now_s)
        self._since = self._before = None
