"""What the store says, read for the commands that show it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from syncd import overview
from syncd.lock import is_locked
from syncd.store import FileReport, Outline, PassedOver, reading


class Reading(NamedTuple):
    """Everything about every file, for a program; empty where there is no store yet."""

    running: bool
    standing: overview.Standing
    files: list[FileReport]

    def as_document(self, progress: Mapping[str, Any] | None = None) -> dict[str, object]:
        """What ``syncd status --json`` shows (docs/schemas/status.schema.json)."""
        document = overview.document(self.standing, running=self.running, progress=progress)
        return {**document, "files": [file._asdict() for file in self.files]}

    def as_json(self, progress: Mapping[str, Any] | None) -> str:
        """That as text."""
        return json.dumps(self.as_document(progress), indent=2)


class Summary(NamedTuple):
    """
    The same for people: what is passed over is counted and not listed.

    ``registered`` may be fewer files than are in the catalog, and ``left`` fewer than are not.
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
    with reading(state_dir, Outline) as outline:
        if outline is None:
            return Reading(running, overview.NOTHING, [])
        return Reading(running, overview.Standing.of(outline), list(outline.files()))


def read_summary(state_dir: str, *, registered: int | None, on_the_way: int | None) -> Summary:
    """
    The same, with at most so many of the files in the catalog and of those on the way; None: all.

    Raises:
        StateError: It cannot be read.
    """
    running = is_locked(state_dir)
    with reading(state_dir, Outline) as outline:
        if outline is None:
            return Summary(running)
        return Summary(
            running,
            overview.Standing.of(outline),
            outline.in_catalog(registered),
            outline.not_in_catalog(on_the_way),
            outline.passed_over(),
        )


def progress_of(state_dir: str) -> dict[str, Any] | None:
    """What the daemon says it is doing; None where it cannot be asked."""
    from syncd.cli import daemon

    try:
        progress: dict[str, Any] | None = daemon.ask(state_dir, "/status")["progress"]
    except (daemon.NotAnswered, daemon.Refused):
        return None
    return progress
