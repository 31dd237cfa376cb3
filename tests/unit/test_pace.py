"""The adaptive pace of API calls, against a server with a fixed limit, in virtual time."""

import math
from collections import deque

import pytest

from syncd.core.transfer.pace import AdaptivePace, announced_limit
from syncd.types import Call


class Server:
    """Accepts *limit* calls in any second and throttles the others."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.throttled = 0
        self._accepted: deque[float] = deque()

    def accepts(self, now_s: float) -> bool:
        while self._accepted and self._accepted[0] <= now_s - 1:
            self._accepted.popleft()
        if len(self._accepted) >= self.limit:
            self.throttled += 1
            return False
        self._accepted.append(now_s)
        return True


def play(pace: AdaptivePace, server: Server, seconds: float, answer_s: float = 0.05) -> list[float]:
    """Call as often as the pace allows; returns when calls were accepted. A throttled call waits 1 s."""
    now_s, accepted = 0.0, []
    while now_s < seconds:
        now_s += pace.book(now_s) + (1e-6 if math.isinf(pace.rate) else 0.0)
        if server.accepts(now_s):
            accepted.append(now_s)
            pace.answered(now_s, Call.PRESIGN, answer_s)
        else:
            pace.throttled(now_s)
            now_s += 1.0
    return accepted


def test_pace_throttles_rarely_once_it_knows_the_limit() -> None:
    server = Server(40)
    accepted = play(AdaptivePace(10, 100), server, 600)

    assert len(accepted) >= 0.9 * 40 * 600
    assert server.throttled <= 10


def test_pace_stays_within_its_bounds() -> None:
    pace = AdaptivePace(10, 30)
    accepted = play(pace, Server(1000), 60)

    assert pace.rate == 30
    assert max(sum(at <= other < at + 1 for other in accepted) for at in accepted) <= 30 + 10


def test_pace_does_not_grow_while_no_call_waits() -> None:
    pace = AdaptivePace(10, 100)
    for second in range(100):
        assert pace.book(second) == 0
        pace.answered(second, Call.PRESIGN, 0.05)

    assert pace.rate == 10


def test_pace_does_not_grow_while_answers_are_slow() -> None:
    pace = AdaptivePace(10, 100)
    pace.answered(0, Call.PRESIGN, 0.05)
    play(pace, Server(1000), 30, answer_s=2.0)

    assert pace.rate == 10


def test_throttled_pace_halves_once_for_calls_of_the_same_moment() -> None:
    pace = AdaptivePace(10, 100)
    for _ in range(20):
        pace.book(0)

    assert [pace.throttled(1.0 + n / 10) for n in range(3)] == [False, False, False]
    assert pace.rate == 5


def test_throttle_after_the_pace_grew_asks_for_a_slower_call() -> None:
    pace = AdaptivePace(10, 100)
    play(pace, Server(1000), 5)
    assert pace.rate > 10

    assert pace.throttled(10)


def test_server_without_a_pace_gets_one_when_it_throttles() -> None:
    pace = AdaptivePace(math.inf, math.inf)
    accepted = play(pace, Server(40), 60)

    assert 20 <= pace.rate <= 44
    assert len(accepted) >= 0.85 * 40 * 60


def test_throttle_never_raises_the_pace() -> None:
    pace = AdaptivePace(0.2, 100)

    assert not pace.throttled(10)
    assert pace.rate == 0.2


def test_learned_pace_is_used_and_bounded() -> None:
    assert AdaptivePace(10, 100, learned=38).rate == 38
    assert AdaptivePace(10, 20, learned=38).rate == 20
    assert AdaptivePace(10, 100, learned=0.1).rate == 1


def test_announced_limit_bounds_the_pace_until_it_expires() -> None:
    pace = AdaptivePace(10, 100)
    pace.announced(0, 2, 10)

    waits = [pace.book(0) for _ in range(4)]
    assert waits[-1] - waits[-2] == pytest.approx(5)
    assert pace.book(100) == 0


def test_announced_limit_makes_no_call_wait_longer_than_five_minutes() -> None:
    pace = AdaptivePace(10, 100)
    pace.announced(0, 1, 21_600)

    assert [pace.book(1000.0 * n) <= 300 for n in range(1, 4)] == [True] * 3
    assert pace.book(3000) <= 2 * 300


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"ratelimit": '"default";r=50;t=30'}, (50, 30)),
        ({"ratelimit": "limit=100, remaining=5, reset=7"}, (5, 7)),
        ({"ratelimit-remaining": "5", "ratelimit-reset": "7"}, (5, 7)),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000060"}, (0, 60)),
        ({"x-ratelimit-remaining": "5"}, None),
        ({"x-ratelimit-remaining": "-5", "x-ratelimit-reset": "7"}, None),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "0"}, None),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "9" * 5000}, None),
        ({"ratelimit": "r=١;t=٢"}, None),
        ({"ratelimit": "r=1;t=" + "9" * 5000}, None),
    ],
)
def test_announced_limit_is_read_from_any_form(
    headers: dict[str, str], expected: tuple[int, float] | None
) -> None:
    assert announced_limit(headers, 1_700_000_000) == expected
