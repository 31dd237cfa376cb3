"""
How many requests send at once: more while that brings more bytes through, fewer when asked.

More streams help on a long link and cost on a short one, and nothing tells which it is but trying.
So more are tried, for a few seconds: they stay if they paid, else they go again. At first each try
doubles the number, so that a long line is filled within seconds; after one that did not pay, or once
the store asked for less, one more is tried now and then, and doubling again after an hour.

A rate is taken from bytes on their way, so that slow streams, whose bodies take minutes, get company
within seconds; but where bodies end soon it holds their ends too, with the pauses before the next
ones, which others at once would fill. Nothing is learnt of the link while bytes are held to a rate
that they reach, nor from a span in which that rate changed or nothing was under way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

SETTLE_S, COUNT_S = 1.0, 2.0
"""A try lasts so long at least; what moves before it has settled does not count."""

SETTLE_BYTES, COUNT_BYTES = 512 * 1024, 1024 * 1024
"""And so many bytes a request: what first fills the sockets' buffers has reached nobody."""

PATIENCE_S = 3.5
"""It waits no longer than that for as many bodies to end as are under way."""

GAIN = 1.05
"""What a try has to bring, as a factor, to be kept."""

REST_S = 60.0
"""After a try that did not pay, or a store that asked for less, before the next."""

SINGLE_S = 3600.0
"""So long one more is tried at a time then, before a doubling is."""

REACHED = 0.95
"""Of a rate that bytes are held to: where so much of it moves, more at once bring nothing."""

GAP_S = 3.0
"""Looks come only while something is under way: after none for so long it is begun anew."""

UNASKED_S = 1.0
"""Between two parts a lane asks for no slot; what is not asked for so long is not needed."""

COMPLAINT_S = 5.0
"""Several complaints within that are one: of many bodies at once, all get the same answer."""

REGAIN_AFTER = 50
"""Bodies in a row that must get through before one that was lost comes back."""


@dataclass(slots=True)
class AdaptiveConcurrency:
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
    _single_until_s: float = 0.0
    _held_to: int | None = None
    _looked_s: float = -GAP_S
    _before: tuple[int, float] | None = None
    _since: tuple[float, int] | None = None
    _counts: bool = False
    _ended: int = 0
    _asked: int = 0
    _unasked_s: float | None = None
    _complained_s: float = -COMPLAINT_S

    def __post_init__(self) -> None:
        self.limit = self.start

    def resize(self, start: int, most: int) -> None:
        """Other bounds, from now on; what was found by trying is kept where it lies between them."""
        self._give_back()
        if start != self.start:
            self.limit = start
        self.start, self.most = start, most
        self.limit = min(self.limit, most)

    def went_well(self) -> None:
        """A body got through."""
        self._ended += 1
        self._good += 1
        if self.limit < self.start and self._good >= REGAIN_AFTER:
            self._good = 0
            self.limit += 1

    def look(self, sent: int, now_s: float, *, asked: int, held_to: int | None) -> None:
        """
        Keep what is tried, or not, and try more where it is time.

        Args:
            sent: Bytes that went to the wire so far, of all bodies.
            now_s: On any clock that does not go back.
            asked: Requests that run or wait for their turn.
            held_to: Bytes a second that all of them together may send; None: any number.
        """
        self._asked = max(self._asked, asked)
        if self._is_another_span(held_to, now_s):
            self._give_back()
        if self._is_unasked(asked, now_s):
            self._give_back()
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
        """A body stalled: fewer of them may fare better."""
        self._shrink(lambda limit: limit - 1, now_s)

    def halve(self, now_s: float) -> None:
        """The store asked for less."""
        self._shrink(lambda limit: limit // 2, now_s)

    def _is_another_span(self, held_to: int | None, now_s: float) -> bool:
        """Are bytes held to another rate than at the look before, or was that long ago?"""
        before, looked_s = self._held_to, self._looked_s
        self._held_to, self._looked_s = held_to, now_s
        return held_to != before or now_s - looked_s > GAP_S

    def _is_unasked(self, asked: int, now_s: float) -> bool:
        """Has there been more than anybody asked for, and for long?"""
        if asked >= self.limit:
            self._unasked_s = None
        elif self._unasked_s is None:
            self._unasked_s = now_s
        return self._unasked_s is not None and now_s - self._unasked_s >= UNASKED_S

    def _passed(self, sent: int, now_s: float, seconds: float, bytes_each: int) -> bool:
        """Since the beginning: so many seconds, and so many bytes a request?"""
        assert self._since is not None, "begun before"
        since_s, before = self._since
        return now_s - since_s >= seconds and sent - before >= bytes_each * self.limit

    def _judge(self, rate: float, now_s: float) -> None:
        """A span is over: keep what was tried, or not, and try more where it is time."""
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

    def _give_back(self) -> None:
        """What is being tried was not needed, or its trial was broken off."""
        if self._before is not None:
            self.limit, _ = self._before
        self._since = self._before = None

    def _rest(self, now_s: float, *, single: bool) -> None:
        self._rest_until_s = now_s + REST_S
        if single:
            self._single_until_s = now_s + SINGLE_S

    def _shrink(self, less: Callable[[int], int], now_s: float) -> None:
        self._give_back()
        self._good = 0
        self._rest(now_s, single=True)
        if now_s - self._complained_s >= COMPLAINT_S:
            self._complained_s = now_s
            self.limit = max(1, less(self.limit))
