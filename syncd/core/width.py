"""
How many requests send at once: one more while that brings more bytes through, fewer when asked.

More streams help on a long link and cost on a short one, and nothing tells which it is but trying.
So now and then one more is tried, for a window: it stays if it paid, else it goes again.
"""

from dataclasses import dataclass, field

WINDOW_S = 3.0
"""The shortest time over which a rate is taken."""

GAIN = 1.05
"""What one more has to bring, as a factor, to be kept."""

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
    _rest_until_s: float = 0.0
    _window: tuple[float, int] | None = None
    _bodies: int = 0
    _rate_before: float | None = None

    def __post_init__(self) -> None:
        self.limit = self.start

    def resize(self, start: int, most: int) -> None:
        """Other bounds, from now on; what was found by trying is kept where it lies between them."""
        if start != self.start:
            self.limit = start
        self.start, self.most = start, most
        self.limit = min(self.limit, most)
        self._window = self._rate_before = None

    def went_well(self, sent: int, now_s: float, *, wanted: bool) -> None:
        """
        A body got through.

        Args:
            sent: Bytes that went to the wire so far, of all bodies.
            now_s: On any clock that does not go back.
            wanted: Others wait for their turn.
        """
        self._good += 1
        if self.limit < self.start:
            if self._good >= REGAIN_AFTER:
                self._good = 0
                self.limit += 1
            return
        if not wanted or self._window is None:
            self._open(sent, now_s)
            return
        self._bodies += 1
        since_s, before = self._window
        if now_s - since_s < WINDOW_S or self._bodies < self.limit:
            return
        self._judge((sent - before) / (now_s - since_s), now_s)
        self._window, self._bodies = (now_s, sent), 0

    def lose_one(self, now_s: float) -> None:
        """A body stalled: fewer of them may fare better."""
        self._shrink(self.limit - 1, now_s)

    def halve(self, now_s: float) -> None:
        """The store asked for less."""
        self._shrink(self.limit // 2, now_s)

    def _judge(self, rate: float, now_s: float) -> None:
        """One window is over: keep what was tried, or not, and try one more where it is time."""
        if self._rate_before is not None and rate < self._rate_before * GAIN:
            self.limit -= 1
            self._rest_until_s = now_s + REST_S
        self._rate_before = None
        if now_s >= self._rest_until_s and self.limit < self.most:
            self.limit += 1
            self._rate_before = rate

    def _open(self, sent: int, now_s: float) -> None:
        """Begin a window; what was tried without being needed is no trial."""
        if self._rate_before is not None:
            self.limit -= 1
            self._rate_before = None
        self._window, self._bodies = (now_s, sent), 0

    def _shrink(self, limit: int, now_s: float) -> None:
        self.limit = max(1, limit)
        self._good = 0
        self._rest_until_s = now_s + REST_S
        self._window = self._rate_before = None
