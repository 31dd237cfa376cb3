"""How many jobs run at the same time."""

import pytest

from syncd.core.transfer.in_flight import SMALL, fitting

LARGE = SMALL + 1


@pytest.mark.parametrize(
    ("running", "waiting", "large_files", "expected"),
    [
        ([], [1] * 50, 2, 16),
        ([], [SMALL] * 50, 1, 16),
        ([1] * 15, [1] * 50, 2, 1),
        ([1] * 16, [1], 2, 0),
        ([], [LARGE] * 5, 2, 2),
        ([], [LARGE] * 5, 1, 1),
        ([], [LARGE] * 5, 3, 3),
        ([], [LARGE] * 50, 16, 16),
        ([], [LARGE] * 50, 6, 6),
        ([LARGE], [LARGE] * 50, 9, 8),
        ([LARGE], [1] * 50, 2, 8),
        ([LARGE], [1] * 50, 1, 0),
        ([1], [LARGE], 1, 0),
        ([1], [LARGE, 1], 2, 2),
        ([1] * 9, [LARGE, 1], 2, 0),
        ([], [], 2, 0),
    ],
)
def test_jobs_that_fit_are_those_whose_files_have_places(
    running: list[int], waiting: list[int], large_files: int, expected: int
) -> None:
    assert fitting(running, waiting, large_files=large_files) == expected
