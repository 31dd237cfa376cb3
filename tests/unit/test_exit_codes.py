"""The exit code of ``--once``; its table is in docs/operate.md."""

import pytest

from syncd.core.exit_codes import exit_code
from syncd.types import FileState

LEFT = {
    "queued": 75, "waiting": 75, "uploading": 75, "needs_sign_in": 77,
    "failed": 1, "cancelled": 1, "drift": 1,
    "refused": 1, "conflict": 1, "unreadable": 1, "incomplete": 1,
}  # fmt: skip
"""The exit code for a file in this state; other states have no influence."""


@pytest.mark.parametrize(
    ("states", "holds", "missing", "unsettled", "unread", "code"),
    [
        ([], ["offline"], False, 0, 0, 0),
        (["registered"], ["throttled", "limit"], False, 0, 0, 0),
        (["needs_sign_in", "queued", "failed"], ["operator"], True, 1, 1, 66),
        (["queued", "failed"], ["paused", "operator"], False, 0, 0, 77),
        (["needs_sign_in", "queued", "failed"], [], False, 1, 1, 77),
        (["queued", "failed"], ["offline"], False, 0, 1, 75),
        (["failed", "registered"], ["paused"], False, 1, 0, 1),
        (["registered"], [], False, 1, 1, 1),
        (["registered"], ["offline"], False, 1, 0, 75),
    ],
)
def test_exit_code_is_that_of_the_first_reason_in_the_table(
    states: list[str], holds: list[str], missing: bool, unsettled: int, unread: int, code: int
) -> None:
    files = dict.fromkeys(states, 2)

    assert code == exit_code(
        files, holds=holds, root_missing=missing, unsettled=unsettled, unread=unread
    )


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
