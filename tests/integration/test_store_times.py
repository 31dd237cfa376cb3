"""The stored times that are compared with the clock, when that is set: promise I31."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncd.core.transfer.quota import HOUR_MS, hour_of
from syncd.store.store import Store
from syncd.types import HoldKind

NOW = 1_800_000_000_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(os.fspath(tmp_path))
    yield store
    store.close()


def hold(store: Store, *, since: int, probe_at: int) -> None:
    store.holds.put(HoldKind.THROTTLED, reason="w", advice=None, probe_at=probe_at, now_ms=since)


def held(store: Store) -> tuple[int, int]:
    (row,) = store.holds.all()
    return row.since, row.probe_at


@pytest.mark.parametrize("step_ms", [-DAY_MS, -1, 1, DAY_MS])
def test_I31_step_while_running_keeps_what_is_left_of_a_wait(store: Store, step_ms: int) -> None:
    hold(store, since=NOW - 5_000, probe_at=NOW + 25_000)

    store.times.shift(step_ms, NOW + step_ms)

    assert held(store) == (NOW + step_ms - 5_000, NOW + step_ms + 25_000)


def test_I31_wait_written_after_a_forward_step_is_not_moved_beyond_its_length(store: Store) -> None:
    hold(store, since=NOW + DAY_MS, probe_at=NOW + DAY_MS + 30_000)

    store.times.shift(DAY_MS, NOW + DAY_MS + 10)

    assert held(store) == (NOW + DAY_MS + 10, NOW + DAY_MS + 30_010)


def test_I31_wait_of_a_later_clock_begins_again_at_start(store: Store) -> None:
    hold(store, since=NOW, probe_at=NOW + 30_000)

    store.times.bound(NOW - DAY_MS)

    assert held(store) == (NOW - DAY_MS, NOW - DAY_MS + 30_000)


def test_I31_wait_of_an_earlier_clock_is_left_alone_at_start(store: Store) -> None:
    hold(store, since=NOW, probe_at=NOW + 30_000)

    store.times.bound(NOW + 10_000)

    assert held(store) == (NOW, NOW + 30_000)


@pytest.mark.parametrize("step_ms", [-HOUR_MS - 7, 3 * HOUR_MS + 7])
def test_I31_bytes_sent_within_a_day_keep_their_age(store: Store, step_ms: int) -> None:
    store.sent.add(5, NOW - HOUR_MS)
    store.sent.add(7, NOW)

    store.times.shift(step_ms, NOW + step_ms)

    hours: Any = sorted(store.sent.by_hour().items())
    assert [size for _, size in hours] == [5, 7]
    assert hours[1][0] - hours[0][0] <= HOUR_MS
    assert hours[1][0] <= hour_of(NOW + step_ms)


def test_I31_bytes_of_hours_to_come_count_to_this_hour_at_start(store: Store) -> None:
    store.sent.add(5, NOW - HOUR_MS)
    store.sent.add(7, NOW)

    store.times.bound(NOW - DAY_MS)

    assert store.sent.by_hour() == {hour_of(NOW - DAY_MS): 12}
