"""What the store says, read for the commands that show it."""

from dataclasses import dataclass

from syncd.store import FileReport, HoldRow, RootReport, is_locked, open_report


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything ``status`` shows; empty where there is no store yet."""

    running: bool
    roots: list[RootReport]
    files: list[FileReport]
    holds: list[HoldRow]
    abandoned_uploads: int


def read_files(state_dir: str) -> Reading:
    """
    Read the store in *state_dir*, whether or not a daemon is at work on it.

    Raises:
        StateError: It cannot be read.
    """
    running = is_locked(state_dir)
    with open_report(state_dir) as report:
        if report is None:
            return Reading(running, [], [], [], 0)
        return Reading(
            running,
            report.roots(),
            list(report.files()),
            report.holds(),
            report.abandoned_uploads(),
        )
