"""How many bodies at once: a link that pays for more gets more, one that does not is left alone."""

from collections.abc import Callable
from dataclasses import dataclass, field

from syncd.core.width import REGAIN_AFTER, REST_S, WINDOW_S, Width

MIB = 1024 * 1024


@dataclass
class Link:
    """Sends bodies of 8 MiB, as fast as *rate* (bytes a second) says for so many at once."""

    width: Width
    rate: Callable[[int], float]
    now_s: float = 0.0
    sent: int = 0
    seen: list[int] = field(default_factory=list)

    def send(self, seconds: float, *, wanted: bool = True) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 8 * MIB / self.rate(self.width.limit)
            self.sent += 8 * MIB
            self.width.went_well(self.sent, self.now_s, wanted=wanted)
            self.seen.append(self.width.limit)


def per_stream(width: int) -> float:
    return width * 29.0 * MIB


def one_line(width: int) -> float:
    return 100.0 * MIB


def test_where_each_stream_brings_its_own_all_that_are_allowed_are_used() -> None:
    link = Link(Width(4, 16), per_stream)
    link.send(15 * WINDOW_S)

    assert link.width.limit == 16


def test_a_full_line_is_tried_once_a_minute_and_left_at_the_start() -> None:
    link = Link(Width(4, 16), one_line)
    link.send(10 * REST_S)

    assert set(link.seen) == {4, 5}
    assert link.seen.count(5) / len(link.seen) < 2 * WINDOW_S / REST_S
    assert 8 < sum(b > a for a, b in zip(link.seen, link.seen[1:], strict=False)) < 12


def test_growth_ends_where_the_line_is_full() -> None:
    link = Link(Width(4, 32), lambda width: min(width * 29.0, 290.0) * MIB)
    link.send(20 * WINDOW_S)

    assert link.width.limit in (10, 11)
    assert max(link.seen) == 11


def test_nothing_is_tried_while_nobody_waits() -> None:
    link = Link(Width(4, 16), per_stream)
    link.send(10 * REST_S, wanted=False)

    assert set(link.seen) == {4}


def test_a_try_that_nobody_waited_for_is_taken_back() -> None:
    link = Link(Width(4, 16), per_stream)
    link.send(2.5 * WINDOW_S)
    assert link.width.limit > 4
    tried = link.width.limit
    link.send(WINDOW_S, wanted=False)

    assert link.width.limit == tried - 1


def test_a_store_that_asks_for_less_gets_half_and_its_peace_for_a_minute() -> None:
    link = Link(Width(4, 16), per_stream)
    link.send(15 * WINDOW_S)
    link.width.halve(link.now_s)

    assert link.width.limit == 8
    link.seen.clear()
    link.send(REST_S - WINDOW_S)
    assert set(link.seen) == {8}


def test_what_was_lost_below_the_start_comes_back_after_fifty_bodies() -> None:
    width = Width(4, 16)
    width.halve(0)
    width.lose_one(0)
    for _ in range(REGAIN_AFTER - 1):
        width.went_well(0, 1e9, wanted=True)
    assert width.limit == 1
    width.went_well(0, 1e9, wanted=True)

    assert width.limit == 2


def test_there_is_always_one() -> None:
    width = Width(1, 16)
    width.halve(0)
    width.lose_one(0)

    assert width.limit == 1


def test_never_more_than_the_setting_allows() -> None:
    link = Link(Width(4, 6), per_stream)
    link.send(100 * WINDOW_S)

    assert max(link.seen) == 6


def test_other_bounds_hold_at_once_and_what_was_found_between_them_stays() -> None:
    link = Link(Width(4, 16), per_stream)
    link.send(15 * WINDOW_S)
    found = link.width.limit
    link.width.resize(4, 12)
    narrowed = link.width.limit
    link.width.resize(2, 12)

    assert (found, narrowed, link.width.limit) == (16, 12, 2)
