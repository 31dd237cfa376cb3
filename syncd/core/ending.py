"""What the end of a run means: its exit code, from what is left."""

from collections.abc import Collection, Mapping
from enum import IntEnum

NEEDS_PERSON = frozenset({"needs_sign_in"})
NOT_UPLOADED = frozenset(
    {"failed", "cancelled", "drift", "refused", "conflict", "unreadable", "incomplete"}
)
UNFINISHED = frozenset({"queued", "waiting", "uploading"})
"""States of a file (``syncd.store.FILE_STATES``) by what they ask for."""


class Exit(IntEnum):
    """Exit codes; the others stand with the errors that carry them (``syncd.errors``)."""

    DONE = 0
    SOME_FAILED = 1
    ROOT = 66
    LATER = 75
    PERSON = 77


def exit_code(
    files: Mapping[str, int],
    *,
    holds: Collection[str],
    unsettled: int,
    root_missing: bool,
    unread: int = 0,
) -> Exit:
    """
    The most pressing of what a run left behind.

    Args:
        files: How many files are in each state.
        holds: Kinds of the holds in force.
        unsettled: Files that still moved when the run ended.
        root_missing: Nothing was judged.
        unread: Folders and files that could not be looked at.
    """
    if root_missing:
        return Exit.ROOT
    left = {state for state, count in files.items() if count}
    if "operator" in holds or left & NEEDS_PERSON:
        return Exit.PERSON
    if left & NOT_UPLOADED or unread:
        return Exit.SOME_FAILED
    if holds or unsettled or left & UNFINISHED:
        return Exit.LATER
    return Exit.DONE
