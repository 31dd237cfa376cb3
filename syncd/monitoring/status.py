"""
The status document: the state in the store and the progress of a running syncd.

``syncd status --json``, ``GET /status`` and ``GET /events`` return it. docs/schemas/status.schema.json
describes it. Times are Unix milliseconds, sizes are bytes, and names are printable.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from syncd.formatting import printable
from syncd.states import FileState
from syncd.store.outline import Amount, HoldRow, NextTry, Outline, RootReport

if TYPE_CHECKING:
    from syncd.monitoring.progress import Running, Settling, Snapshot

NEXT_TRIES = 10
THIS_RUN = ("registered_files", "adopted_files", "failed_files", "hashed", "sent", "adopted")

SETTLING_LISTED = 20
"""The largest number of changing files in the document. A first scan may find 50,000."""

TO_DO = frozenset({FileState.QUEUED, FileState.WAITING, FileState.UPLOADING})
"""States of files that syncd will still upload."""


class StatusSummary(NamedTuple):
    """The status in the store, without the single files."""

    roots: list[RootReport]
    holds: list[HoldRow]
    amounts: Mapping[str, Amount]
    next_tries: list[NextTry]
    oldest_waiting_at: int | None
    last_success_at: int | None
    abandoned_uploads: int

    @classmethod
    def of(cls, report: Outline) -> "StatusSummary":
        """Read the summary. Raises ``StateError``."""
        return cls(
            roots=report.roots(),
            holds=report.holds(),
            amounts=report.amounts(),
            next_tries=report.next_tries(NEXT_TRIES),
            oldest_waiting_at=report.oldest_waiting_at(),
            last_success_at=report.last_success_at(),
            abandoned_uploads=report.abandoned_uploads(),
        )

    @property
    def bytes_to_do(self) -> int:
        """Bytes of the files that are queued or being uploaded."""
        return sum(amount.bytes for state, amount in self.amounts.items() if state in TO_DO)


NOTHING = StatusSummary([], [], {}, [], None, None, 0)
"""The summary of an empty state directory."""


def document(
    summary: StatusSummary, *, running: bool, progress: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the document; *progress* is the result of ``progress_of``, None if unknown."""
    return {
        "schema": 1,
        "running": running,
        "roots": [root._asdict() for root in summary.roots],
        "holds": [
            {
                "kind": hold.kind,
                "since": hold.since,
                "reason": hold.reason,
                "advice": hold.advice,
                "needs_operator": hold.needs_operator,
                "probe_at": hold.probe_at,
            }
            for hold in summary.holds
        ],
        "files_by_state": {state: amount.files for state, amount in summary.amounts.items()},
        "bytes_by_state": {state: amount.bytes for state, amount in summary.amounts.items()},
        "next_tries": [retry._asdict() for retry in summary.next_tries],
        "oldest_waiting_at": summary.oldest_waiting_at,
        "last_success_at": summary.last_success_at,
        "abandoned_uploads": summary.abandoned_uploads,
        "progress": progress,
    }


def progress_of(
    now: "Snapshot",
    summary: StatusSummary,
    settling: "Iterable[Settling]",
    *,
    started_at: int,
    version: str,
    bandwidth: float | None,
    calls_per_s: float | None,
) -> dict[str, Any]:
    """Return the progress of a running syncd; None as a limit or a pace means that there is none."""
    in_flight = sum(min(running.sent, running.size) for running in now.running)
    left = max(summary.bytes_to_do - in_flight, 0)
    predictable = left > 0 and now.sent_rate > 0 and not summary.holds
    return {
        "version": version,
        "started_at": started_at,
        "running": [_running(running) for running in now.running],
        "settling_files": now.settling_files,
        "settling": [file._asdict() for file in islice(settling, SETTLING_LISTED)],
        "bytes_left": left,
        "seconds_left": round(left / now.sent_rate, 1) if predictable else None,
        "sent_rate": round(now.sent_rate, 1),
        "hashed_rate": round(now.hashed_rate, 1),
        "idle_s": round(now.idle_s, 1),
        "bandwidth": bandwidth,
        "calls_per_s": None if calls_per_s is None else round(calls_per_s, 1),
        "this_run": {name: getattr(now, name) for name in THIS_RUN},
    }


def _running(running: "Running") -> dict[str, Any]:
    return {
        "path": printable(running.rel_path),
        "size": running.size,
        "phase": running.phase,
        "hashed": running.hashed,
        "sent": running.sent,
        "parts": running.parts,
        "parts_done": running.parts_done,
    }
