"""What the store says, read for the commands that show it."""

from dataclasses import dataclass
from typing import Any

from syncd import overview
from syncd.cli import daemon
from syncd.lock import is_locked
from syncd.store import FileReport, HoldRow, open_report


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything ``status`` shows; empty where there is no store yet."""

    running: bool
    standing: overview.Standing
    files: list[FileReport]

    @property
    def holds(self) -> list[HoldRow]:
        """What everything waits for."""
        return self.standing.holds


def read_files(state_dir: str) -> Reading:
    """
    Read the store in *state_dir*, whether or not a daemon is at work on it.

    Raises:
        StateError: It cannot be read.
    """
    running = is_locked(state_dir)
    with open_report(state_dir) as report:
        if report is None:
            return Reading(running, overview.NOTHING, [])
        return Reading(running, overview.Standing.of(report), list(report.files()))


def progress_of(state_dir: str) -> dict[str, Any] | None:
    """What the daemon says it is doing; None where it cannot be asked."""
    try:
        progress: dict[str, Any] | None = daemon.ask(state_dir, "/status")["progress"]
    except (daemon.NotAnswered, daemon.Refused):
        return None
    return progress
