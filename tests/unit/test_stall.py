"""Stall detection of a body."""

import pytest

from syncd.core.transfer.stall import StallDetector
from syncd.errors import Retryable
from syncd.types import Kind


def test_F28_body_below_1_kib_per_second_for_five_minutes_stalls() -> None:
    stall = StallDetector(100.0)
    stall.add(300 * 1024 - 1, 399.9)
    with pytest.raises(Retryable) as caught:
        stall.add(0, 400.0)
    assert caught.value.kind is Kind.NETWORK
    assert caught.value.timed_out
    assert caught.value.unclear
    assert stall.stalled


def test_F28_each_window_is_measured_separately() -> None:
    stall = StallDetector(0.0)
    stall.add(10 * 1024 * 1024, 300.0)
    stall.add(1024, 599.0)
    assert not stall.stalled
    with pytest.raises(Retryable):
        stall.add(1024, 600.0)


def test_F28_body_of_1_kib_per_second_does_not_stall() -> None:
    stall = StallDetector(0.0)
    stall.add(300 * 1024, 300.0)
    assert not stall.stalled
