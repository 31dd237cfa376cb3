"""The exit code of a run, computed from what is left to do."""

from collections.abc import Collection, Mapping
from enum import IntEnum

from syncd.states import FileState, HoldKind

NEEDS_OPERATOR = frozenset({FileState.NEEDS_SIGN_IN})
NOT_UPLOADED = frozenset(
    {FileState.FAILED, FileState.CANCELLED, FileState.DRIFT, FileState.REFUSED}
    | {FileState.CONFLICT, FileState.UNREADABLE, FileState.INCOMPLETE}
)
UNFINISHED = frozenset({FileState.QUEUED, FileState.WAITING, FileState.UPLOADING})
"""
States of a file (``FileState``) by what they ask for.

``--once`` leaves an unfinished file only because of the cloud, a hold, a pause or a limit. The one
exception is a file that waits for another file of its bundle: that other file decides.
"""

INTERRUPTED = 130  # after SIGINT


class Exit(IntEnum):
    """Exit codes; the others belong to the exceptions in ``syncd.errors``."""

    DONE = 0
    SOME_FAILED = 1
    ROOT = 66
    LATER = 75
    OPERATOR = 77


def exit_code(
    files: Mapping[str, int],
    *,
    holds: Collection[str],
    unsettled: int,
    root_missing: bool,
    unread: int = 0,
    bundled: int = 0,
) -> Exit:
    """
    Return the exit code for what a run left; the first rule that applies wins.

    Work that the next run can finish (75) wins over files that no run can finish (1), or a scheduler
    would give up on a backfill because of one refused file. Files that are still changing lose to refused
    files: a tree in use always has some.

    Args:
        files: The number of files in each state.
        holds: Kinds of the active holds.
        unsettled: Files that were still changing when the run ended.
        unread: Folders and files that could not be read.
        bundled: Of the unfinished files, those that only wait for another file of their bundle.
    """
    if root_missing:
        return Exit.ROOT
    left = {state for state, count in files.items() if count}
    if HoldKind.OPERATOR in holds or left & NEEDS_OPERATOR:
        return Exit.OPERATOR
    if sum(files.get(state, 0) for state in UNFINISHED) > bundled:
        return Exit.LATER
    if left & NOT_UPLOADED or unread:
        return Exit.SOME_FAILED
    return Exit.LATER if unsettled or bundled else Exit.DONE
