"""
Where things stand: what the store says, and what a running syncd is doing, as one document.

``syncd status --json``, ``GET /status`` and ``GET /events`` all show this; its written contract is
docs/schemas/status.schema.json. Times are Unix milliseconds, sizes bytes, names printable.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from syncd.formatting import printable
from syncd.states import FileState
from syncd.store.outline import Amount, HoldRow, NextTry, Outline, RootReport

if TYPE_CHECKING:
    from syncd.monitoring.progress import Running, Settling, Snapshot

SCHEMA = 1
"""Version of the document."""

NEXT_TRIES = 10

SETTLING_LISTED = 20
"""Files that still change, listed one by one: a first walk may meet 50,000 of them."""

TO_DO = frozenset({FileState.QUEUED, FileState.WAITING, FileState.UPLOADING})
"""States of files that syncd brings into the catalog by itself."""


class Standing(NamedTuple):
    """What the store says of everything, without a line for each file."""

    roots: list[RootReport]
    holds: list[HoldRow]
    amounts: Mapping[str, Amount]
    next_tries: list[NextTry]
    oldest_waiting_at: int | None
    last_success_at: int | None
    abandoned_uploads: int

    @classmethod
    def of(cls, report: Outline) -> "Standing":
        """
        Read it.

        Raises:
            StateError: It cannot be read.
        """
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
        """Bytes of the files that are queued or at work."""
        return sum(amount.bytes for state, amount in self.amounts.items() if state in TO_DO)


NOTHING = Standing([], [], {}, [], None, None, 0)
"""Of a state directory that holds nothing yet."""


def document(
    standing: Standing, *, running: bool, progress: Mapping[str, Any] | None
) -> dict[str, Any]:
    """
    The document.

    Args:
        running: A syncd owns the state directory.
        progress: What it is doing, as ``progress_of`` tells; None if it was not asked.
    """
    return {
        "schema": SCHEMA,
        "running": running,
        "roots": [root._asdict() for root in standing.roots],
        "holds": [
            {
                "kind": hold.kind,
                "since": hold.since,
                "reason": hold.reason,
                "advice": hold.advice,
                "needs_person": hold.needs_person,
                "probe_at": hold.probe_at,
            }
            for hold in standing.holds
        ],
        "files_by_state": {state: amount.files for state, amount in standing.amounts.items()},
        "bytes_by_state": {state: amount.bytes for state, amount in standing.amounts.items()},
        "next_tries": [each._asdict() for each in standing.next_tries],
        "oldest_waiting_at": standing.oldest_waiting_at,
        "last_success_at": standing.last_success_at,
        "abandoned_uploads": standing.abandoned_uploads,
        "progress": progress,
    }


def progress_of(
    now: "Snapshot",
    standing: Standing,
    settling: "Iterable[Settling]",
    *,
    started_at: int,
    version: str,
    bandwidth: float | None,
) -> dict[str, Any]:
    """
    What a running syncd does, and how fast.

    Args:
        settling: Files that still change; the first ``SETTLING_LISTED`` are listed.
        bandwidth: Bytes a second that sending is held to; None: not at all.
    """
    from syncd.monitoring.progress import BEAT_S

    under_way = sum(min(running.sent, running.size) for running in now.running)
    left = max(standing.bytes_to_do - under_way, 0)
    in_sight = left > 0 and now.sent_rate > 0 and not standing.holds
    return {
        "version": version,
        "started_at": started_at,
        "running": [_running(running) for running in now.running],
        "settling_files": now.settling_files,
        "settling": [file._asdict() for file in islice(settling, SETTLING_LISTED)],
        "bytes_left": left,
        "seconds_left": round(left / now.sent_rate, 1) if in_sight else None,
        "sent_rate": round(now.sent_rate, 1),
        "hashed_rate": round(now.hashed_rate, 1),
        "beat_s": BEAT_S,
        "sent_beats": list(now.sent_beats),
        "idle_s": round(now.idle_s, 1),
        "bandwidth": bandwidth,
        "this_run": {
            "registered_files": now.registered_files,
            "adopted_files": now.adopted_files,
            "failed_files": now.failed_files,
            "hashed": now.hashed,
            "sent": now.sent,
            "adopted": now.adopted,
        },
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
        "parts_stored": _ranges(_bits(running.stored)),
        "parts_on_wire": {str(number): sent for number, sent in sorted(running.on_wire.items())},
    }


def _bits(number: int) -> list[int]:
    return [at + 1 for at in range(number.bit_length()) if number >> at & 1]


def _ranges(numbers: Collection[int]) -> list[list[int]]:
    """Ascending numbers as [first, last] of each unbroken run: 10,000 parts stay short."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
