"""The number of concurrent requests on simulated links."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from syncd.core.transfer.concurrency import (
    PATIENCE_S,
    REGAIN_AFTER,
    REST_S,
    SETTLE_S,
    SINGLE_S,
    THROTTLE_S,
    UNASKED_S,
    AdaptiveConcurrency,
)

MIB = 1024 * 1024
GIGABIT = 117.5 * MIB
"""The payload of a 1 Gbit/s link in bytes per second."""

STEP_S, LOOK_S = 0.05, 0.5
TRY_S = SETTLE_S + PATIENCE_S + 2 * LOOK_S
"""The longest duration of a trial unless streams are very slow."""


@dataclass
class Body:
    """A body that is being sent; after its last byte its slot waits for the response."""

    left: float
    done_s: float = math.inf


@dataclass
class Link:
    """
    A simulated link with a capacity of *line* bytes per second, and *stream* per body.

    Between two bodies a slot waits *pause_s* for the response and the next URL. The first *buffer* bytes of a
    new stream only fill its socket, at *fill* bytes per second in all. Bytes are counted in units of
    *piece*. *asked* bodies are waiting, limited to *held_to* bytes per second. ``seen`` contains the limit
    at each sample, and ``rates`` the rate of each step.
    """

    width: AdaptiveConcurrency
    line: float = math.inf
    stream: float = math.inf
    pause_s: float = 0.0
    body: float = 100 * MIB
    buffer: float = 0.0
    fill: float = 0.0
    piece: float = 1.0
    asked: int = 64
    held_to: int | None = None
    now_s: float = 0.0
    sent: float = 0.0
    buffered: float = 0.0
    streams: int = 4
    seen: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)

    def send(self, seconds: float) -> None:
        for _ in range(round(seconds / LOOK_S)):
            for _ in range(round(LOOK_S / STEP_S)):
                self._step()
            counted = (self.sent + self.buffered) // self.piece * self.piece
            self.width.sample(int(counted), self.now_s, asked=self.asked, held_to=self.held_to)
            self.seen.append(self.width.limit)

    def pass_by(self, seconds: float) -> None:
        """Let time pass without requests and samples."""
        self.bodies.clear()
        self.now_s += seconds

    def _step(self) -> None:
        self.now_s += STEP_S
        for body in [body for body in self.bodies if body.done_s <= self.now_s]:
            self.bodies.remove(body)
            self.width.body_succeeded()
        while len(self.bodies) < min(self.width.limit, self.asked):
            self.bodies.append(Body(self.body))
        sending = [body for body in self.bodies if body.left > 0]
        line = self.line if self.held_to is None else min(self.line, self.held_to)
        share = min(self.stream, line / max(len(sending), 1)) * STEP_S
        before = self.sent
        for body in sending:
            self.sent += min(share, body.left)
            body.left -= share
            if body.left <= 0:
                body.done_s = self.now_s + self.pause_s
        self.rates.append((self.sent - before) / STEP_S)
        self.streams = max(self.streams, len(self.bodies))
        most = (self.streams - 4) * self.buffer
        self.buffered = min(self.buffered + self.fill * STEP_S, most)

    def share(self, seconds: float) -> float:
        """Return the recent utilisation of the link."""
        recent = self.rates[-round(seconds / STEP_S) :]
        return sum(recent) / len(recent) / self.line


def test_slow_streams_get_more_before_any_body_ends() -> None:
    link = Link(AdaptiveConcurrency(4, 16), line=GIGABIT, stream=0.6 * MIB)  # 0.1 % lost, 100 ms
    link.send(2 * TRY_S)

    assert link.width.limit == 16
    assert link.sent < link.body


@pytest.mark.parametrize(("delay_s", "stream"), [(0.05, 53 * MIB), (0.1, 29 * MIB)])
def test_long_gigabit_link_is_full_within_fifteen_seconds(delay_s: float, stream: float) -> None:
    link = Link(AdaptiveConcurrency(4, 16), line=GIGABIT, stream=stream, pause_s=2.5 * delay_s)
    link.send(15)

    assert link.share(5) > 0.93


def test_trial_includes_pauses_between_bodies() -> None:
    # Four streams fill the line except for the pauses in which all of them wait.
    link = Link(
        AdaptiveConcurrency(4, 16), line=GIGABIT, stream=GIGABIT / 4, pause_s=0.4, body=125 * MIB
    )
    link.send(2 * TRY_S)

    assert link.width.limit > 4


def test_full_link_keeps_start_and_tries_once_a_minute() -> None:
    link = Link(AdaptiveConcurrency(4, 16), line=GIGABIT)
    link.send(10 * REST_S)

    assert set(link.seen) == {4, 5, 8}
    assert link.seen.count(5) / len(link.seen) < 2 * TRY_S / REST_S
    assert 7 < sum(b > a for a, b in zip(link.seen, link.seen[1:], strict=False)) < 12


def test_failed_trial_is_followed_by_single_steps() -> None:
    link = Link(AdaptiveConcurrency(4, 32), line=GIGABIT)
    link.send(REST_S)
    link.line, link.stream = math.inf, 29 * MIB
    link.seen.clear()
    link.send(REST_S)

    assert link.width.limit > 8
    assert all(b - a in (0, 1) for a, b in zip(link.seen, link.seen[1:], strict=False))


def test_doubling_is_tried_again_after_an_hour() -> None:
    link = Link(AdaptiveConcurrency(4, 32), line=GIGABIT)
    link.send(REST_S)
    link.pass_by(SINGLE_S - REST_S)
    link.send(2 * TRY_S)  # a failed single step does not delay it further
    link.pass_by(REST_S)
    link.line, link.stream = math.inf, 29 * MIB
    link.seen.clear()
    link.send(3 * TRY_S)

    assert list(dict.fromkeys(link.seen)) == [4, 8, 16, 32]


# -- bandwidth limits and pauses -------------------------------------------------------------------


@pytest.mark.parametrize("held_to", [MIB // 16, 10 * MIB, 100 * MIB])
def test_no_trial_while_bandwidth_limit_is_reached(held_to: int) -> None:
    link = Link(AdaptiveConcurrency(4, 16), stream=29 * MIB, held_to=held_to)
    link.send(2 * REST_S)
    assert set(link.seen) == {4}
    link.held_to = None
    link.seen.clear()
    link.send(2 * TRY_S)

    assert list(dict.fromkeys(link.seen)) == [4, 8, 16]


@pytest.mark.parametrize("held_to", [MIB // 16, 60 * MIB])
@pytest.mark.parametrize("period_s", [0.5, 2, 3.5, 5, 11])
def test_changing_bandwidth_limit_is_not_a_gain(held_to: int, period_s: float) -> None:
    link = Link(AdaptiveConcurrency(4, 16), line=GIGABIT)
    for number in range(round(2 * REST_S / period_s)):
        link.held_to = held_to if number % 2 == 0 else None
        link.send(period_s)
    link.held_to = None
    link.send(2 * TRY_S)

    assert link.width.limit == 4


@pytest.mark.parametrize("begins_s", [2, 4, 6])
def test_bandwidth_limit_during_trial_does_not_fail_it(begins_s: float) -> None:
    link = Link(AdaptiveConcurrency(4, 16), stream=29 * MIB)
    link.send(begins_s)
    link.held_to = 10 * MIB
    link.send(TRY_S)
    link.held_to = None
    link.send(2 * TRY_S)

    assert link.width.limit == 16


@pytest.mark.parametrize("begins_s", [0.5, 2, 4, 6])
def test_pause_without_requests_is_ignored(begins_s: float) -> None:
    full, long = (
        Link(AdaptiveConcurrency(4, 16), line=GIGABIT),
        Link(AdaptiveConcurrency(4, 16), stream=29 * MIB),
    )
    for link in (full, long):
        link.send(begins_s)
        link.pass_by(600)
        link.send(3 * TRY_S)

    assert (full.width.limit, long.width.limit) == (4, 16)


# -- waiting requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [3, 4])
def test_no_trial_without_waiting_requests(asked: int) -> None:
    link = Link(AdaptiveConcurrency(4, 16), stream=29 * MIB, asked=asked)
    link.send(10 * REST_S)

    assert set(link.seen) == {4}


def test_unused_trial_is_reverted() -> None:
    link = Link(AdaptiveConcurrency(4, 16), stream=29 * MIB)
    link.send(TRY_S)
    assert link.width.limit == 8
    link.asked = 7
    link.send(UNASKED_S)
    assert link.width.limit == 8
    link.send(2 * LOOK_S)

    assert link.width.limit == 4


@pytest.mark.parametrize(
    ("line", "buffer", "fill"),
    [(GIGABIT, 8 * MIB, 27 * MIB), (1 * MIB, MIB / 2, 0.7 * MIB)],
    ids=["fast", "slow"],
)
def test_filled_socket_buffers_are_not_a_gain(line: float, buffer: float, fill: float) -> None:
    link = Link(AdaptiveConcurrency(4, 16), line=line, buffer=buffer, fill=fill)
    link.send(REST_S)

    assert max(link.seen) == 8
    assert link.width.limit == 4


def test_throttle_halves_limit_and_pauses_trials() -> None:
    link = Link(AdaptiveConcurrency(4, 16), stream=29 * MIB)
    link.send(3 * TRY_S)
    link.width.halve(link.now_s)

    assert link.width.limit == 8
    link.seen.clear()
    link.send(REST_S - 2 * LOOK_S)
    assert set(link.seen) == {8}


def test_slot_below_start_is_regained_after_fifty_bodies() -> None:
    width = AdaptiveConcurrency(4, 16)
    width.halve(0)
    width.lose_one(THROTTLE_S)
    for _ in range(REGAIN_AFTER - 1):
        width.body_succeeded()
    assert width.limit == 1
    width.body_succeeded()

    assert width.limit == 2


def test_simultaneous_throttles_count_once() -> None:
    width = AdaptiveConcurrency(16, 16)
    for moment_s in (0, 0.1, THROTTLE_S - 0.1):
        width.halve(moment_s)
    assert width.limit == 8
    width.lose_one(THROTTLE_S)

    assert width.limit == 7


@pytest.mark.parametrize(
    ("ends", "left"),
    [
        (lambda width, now_s: width.halve(now_s), 2),
        (lambda width, now_s: width.lose_one(now_s), 3),
        (lambda width, _: width.resize(4, 16), 4),
    ],
    ids=["asked for less", "stall", "reload"],
)
def test_interrupted_trial_is_reverted(
    ends: Callable[[AdaptiveConcurrency, float], None], left: int
) -> None:
    link = Link(AdaptiveConcurrency(4, 16), stream=29 * MIB)
    link.send(TRY_S)
    assert link.width.limit == 8
    ends(link.width, link.now_s)

    assert link.width.limit == left


def test_resize_applies_at_once_and_keeps_value_in_bounds() -> None:
    link = Link(AdaptiveConcurrency(4, 16), stream=29 * MIB)
    link.send(3 * TRY_S)
    found = link.width.limit
    link.width.resize(4, 12)
    narrowed = link.width.limit
    link.width.resize(2, 12)

    assert (found, narrowed, link.width.limit) == (16, 12, 2)
