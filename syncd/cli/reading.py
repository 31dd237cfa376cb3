"""What the store says, read for the commands that show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from syncd import overview
from syncd.cli import daemon
from syncd.lock import is_locked
from syncd.store import FileReport, PassedOver, open_report


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything about every file, for a program; empty where there is no store yet."""

    running: bool
    standing: overview.Standing
    files: list[FileReport]


@dataclass(frozen=True, slots=True)
class Summary:
    """
    The same for people: what is passed over is counted and not listed.

    ``registered`` may be fewer files than are in the catalog.
    """

    running: bool = False
    standing: overview.Standing = overview.NOTHING
    registered: Sequence[FileReport] = ()
    left: Sequence[FileReport] = ()
    passed_over: Sequence[PassedOver] = ()


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


def read_summary(state_dir: str, *, most: int | None) -> Summary:
    """
    The same, with so many *most* of the files in the catalog; None: all.

    Raises:
        StateError: It cannot be read.
    """
    running = is_locked(state_dir)
    with open_report(state_dir) as report:
        if report is None:
            return Summary(running)
        return Summary(
            running,
            overview.Standing.of(report),
            report.in_catalog(most),
            report.not_in_catalog(),
            report.passed_over(),
        )


def progress_of(state_dir: str) -> dict[str, Any] | None:
    """What the daemon says it is doing; None where it cannot be asked."""
    try:
        progress: dict[str, Any] | None = daemon.ask(state_dir, "/status")["progress"]
    except (daemon.NotAnswered, daemon.Refused):
        return None
    return progress
