"""What the store says, read for the commands that show it."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from syncd import overview
from syncd.lock import is_locked
from syncd.store import FileReport, HoldRow, open_summary


class Reading(NamedTuple):
    """Everything ``status`` shows; empty where there is no store yet."""

    running: bool
    standing: overview.Standing
    files: list[FileReport]

    @property
    def holds(self) -> list[HoldRow]:
        """What everything waits for."""
        return self.standing.holds

    def as_document(self, progress: Mapping[str, Any] | None = None) -> dict[str, object]:
        """What ``syncd status --json`` shows (docs/schemas/status.schema.json)."""
        document = overview.document(self.standing, running=self.running, progress=progress)
        return {**document, "files": [file._asdict() for file in self.files]}

    def as_json(self, progress: Mapping[str, Any] | None) -> str:
        """That as text."""
        return json.dumps(self.as_document(progress), indent=2)


def read_files(state_dir: str) -> Reading:
    """
    Read the store in *state_dir*, whether or not a daemon is at work on it.

    Raises:
        StateError: It cannot be read.
    """
    running = is_locked(state_dir)
    with open_summary(state_dir) as summary:
        if summary is None:
            return Reading(running, overview.NOTHING, [])
        return Reading(running, overview.Standing.of(summary), list(summary.files()))


def progress_of(state_dir: str) -> dict[str, Any] | None:
    """What the daemon says it is doing; None where it cannot be asked."""
    from syncd.cli import daemon

    try:
        progress: dict[str, Any] | None = daemon.ask(state_dir, "/status")["progress"]
    except (daemon.NotAnswered, daemon.Refused):
        return None
    return progress
