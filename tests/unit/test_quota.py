"""``limits.max_bytes_per_day``: when the next body may be sent."""

import pytest

from syncd.core.transfer.quota import DAY_MS, HOUR_MS, hour_of, next_allowed_ms, sent_within_a_day

NOW = 1_000 * HOUR_MS + 1_234
THIS_HOUR = hour_of(NOW)


@pytest.mark.parametrize(
    ("sent", "room_at"),
    [
        ({}, NOW),
        ({THIS_HOUR: 99}, NOW),
        ({THIS_HOUR: 100}, THIS_HOUR + HOUR_MS + DAY_MS),
        ({THIS_HOUR - DAY_MS: 1, THIS_HOUR: 99}, THIS_HOUR + HOUR_MS),
        ({THIS_HOUR - DAY_MS: 1, THIS_HOUR: 100}, THIS_HOUR + HOUR_MS + DAY_MS),
        ({THIS_HOUR - DAY_MS - HOUR_MS: 1000, THIS_HOUR: 99}, NOW),
        ({THIS_HOUR - 2 * HOUR_MS: 60, THIS_HOUR: 60}, THIS_HOUR - HOUR_MS + DAY_MS),
    ],
)
def test_next_body_is_allowed_when_day_total_is_below_limit(
    sent: dict[int, int], room_at: int
) -> None:
    assert next_allowed_ms(sent, 100, NOW) == room_at


def test_hour_counts_until_all_of_it_is_a_day_ago() -> None:
    sent = {THIS_HOUR: 5}

    assert sent_within_a_day(sent, THIS_HOUR + HOUR_MS + DAY_MS - 1) == 5
    assert sent_within_a_day(sent, THIS_HOUR + HOUR_MS + DAY_MS) == 0
