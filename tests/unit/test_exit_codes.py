"""The exit code of ``--once``, compared with the table in docs/operate.md by brute force."""

from itertools import product

import pytest

from syncd.core.exit_codes import exit_code
from syncd.types import FileState

LEFT = {
    "queued": 75, "waiting": 75, "uploading": 75, "needs_sign_in": 77,
    "failed": 1, "cancelled": 1, "drift": 1,
    "refused": 1, "conflict": 1, "unreadable": 1, "incomplete": 1,
}  # fmt: skip
"""The exit code for a file in this state; other states have no influence."""

FLAGS = list(product([False, True], repeat=3))
HOLDS = [[], ["paused"], ["offline"], ["throttled", "limit"], ["operator"], ["operator", "paused"]]


def expected(states: set[str], holds: list[str], missing: bool, unsettled: int, unread: int) -> int:
    """Apply the rows of the table in order; the first reason that is present wins."""
    asked = {LEFT.get(state, 0) for state in states}
    rows = [
        (66, missing),
        (77, "operator" in holds or 77 in asked),
        (75, 75 in asked),
        (1, 1 in asked or unread > 0),
        (75, unsettled > 0),
    ]
    return next((code for code, present in rows if present), 0)


def test_exit_code_every_combination_equals_the_table() -> None:
    reasons = ["queued", "waiting", "uploading", "needs_sign_in", "failed", "refused", "registered"]
    wrong = []
    for chosen in product([False, True], repeat=len(reasons)):
        states = {name for name, on in zip(reasons, chosen, strict=True) if on}
        for holds, (missing, unsettled, unread) in product(HOLDS, FLAGS):
            code = exit_code(
                dict.fromkeys(states, 2), holds=holds, root_missing=missing,
                unsettled=unsettled, unread=unread,
            )  # fmt: skip
            if code != expected(states, holds, missing, unsettled, unread):
                wrong.append((states, holds, missing, unsettled, unread, code))

    assert wrong == []


@pytest.mark.parametrize("state", FileState)
def test_exit_code_one_file_in_each_state(state: str) -> None:
    files = {"registered": 3, state: 1}

    code = exit_code(files, holds=[], unsettled=0, root_missing=False)

    assert code == LEFT.get(state, 0)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"waiting": 2}, 75),
        ({"waiting": 2, "refused": 1}, 1),
        ({"waiting": 2, "needs_sign_in": 1}, 77),
        ({"waiting": 3, "refused": 1}, 75),
        ({"waiting": 2, "queued": 1, "refused": 1}, 75),
    ],
    ids=str,
)
def test_exit_code_files_behind_their_bundle_follow_the_other_files(
    files: dict[str, int], code: int
) -> None:
    assert exit_code(files, holds=[], unsettled=0, root_missing=False, bundled=2) == code
