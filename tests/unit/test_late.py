"""How long a lost request may still take effect."""

import pytest

from syncd.core.jobs.late import wait_s

NOW = 1_000_000


@pytest.mark.parametrize(
    ("sent_ago_s", "expected_s"), [(0, 90), (30, 60), (89.5, 0.5), (90, 0), (10_000, 0)]
)
def test_I29_wait_ends_latest_s_after_the_intent(sent_ago_s: float, expected_s: float) -> None:
    assert wait_s(NOW - int(sent_ago_s * 1000), NOW, 90) == expected_s


def test_I31_wait_after_a_clock_was_set_back_is_latest_s_at_most() -> None:
    assert wait_s(NOW + 3_600_000, NOW, 90) == 90
