"""What the store and the daemon say, read for the commands that show it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from syncd.cli.daemon_client import is_running
from syncd.errors import AccessDenied
from syncd.monitoring import status
from syncd.states import FileState, HoldKind
from syncd.store.db import reading
from syncd.store.outline import (
    Amount,
    FileReport,
    HoldRow,
    NextTry,
    Outline,
    PassedOver,
    RootReport,
)


class Reading(NamedTuple):
    """
    Everything about every file, for a program; empty where there is no store yet.

    ``progress`` is what a running daemon does, None where none can be asked.
    """

    running: bool
    standing: status.StatusSummary
    files: list[FileReport]
    progress: Mapping[str, Any] | None = None

    def as_document(self) -> dict[str, object]:
        """What ``syncd status --json`` shows (docs/schemas/status.schema.json)."""
        document = status.document(self.standing, running=self.running, progress=self.progress)
        return {**document, "files": [file._asdict() for file in self.files]}

    def as_json(self) -> str:
        """That as text."""
        return json.dumps(self.as_document(), indent=2)


class Summary(NamedTuple):
    """
    The same for people: what is passed over is counted and not listed.

    ``registered`` may be fewer files than are in the catalog, and ``left`` fewer than are not.
    """

    running: bool = False
    standing: status.StatusSummary = status.NOTHING
    registered: Sequence[FileReport] = ()
    left: Sequence[FileReport] = ()
    passed_over: Sequence[PassedOver] = ()
    progress: Mapping[str, Any] | None = None


def read_files(state_dir: str) -> Reading:
    """
    Read the store in *state_dir*, whether or not a daemon is at work on it.

    An account that may not read it gets the same from the daemon.

    Raises:
        AccessDenied: This account may neither read it nor ask the daemon.
        StateError: It cannot be read.
    """
    running = is_running(state_dir)
    live = ask_daemon(state_dir) if running else None
    try:
        with reading(state_dir, Outline) as outline:
            if outline is None:
                return Reading(running, status.NOTHING, [], _progress(live))
            standing, files = status.StatusSummary.of(outline), list(outline.files())
    except AccessDenied:
        if live is None:
            raise
        standing, files = _standing_told(live), list(_files_told(state_dir))
    files = [as_it_is(file, running) for file in files]
    return Reading(running, _now(standing, live, running), files, _progress(live))


def read_summary(state_dir: str, *, registered: int | None, on_the_way: int | None) -> Summary:
    """
    The same, with at most so many of the files in the catalog and of those on the way; None: all.

    Raises what ``read_files`` raises.
    """
    running = is_running(state_dir)
    live = ask_daemon(state_dir) if running else None
    try:
        with reading(state_dir, Outline) as outline:
            if outline is None:
                return Summary(running, progress=_progress(live))
            standing = status.StatusSummary.of(outline)
            done, left = outline.in_catalog(registered), outline.not_in_catalog(on_the_way)
            passed_over = outline.passed_over()
    except AccessDenied:
        if live is None:
            raise
        return _summary_told(state_dir, live, registered, on_the_way)
    return Summary(
        running,
        _now(standing, live, running),
        done,
        [as_it_is(file, running) for file in left],
        passed_over,
        _progress(live),
    )


def as_it_is(file: FileReport, running: bool) -> FileReport:
    """A file as it is now: nothing is uploading where no daemon runs, whatever it left behind."""
    if running or file.state != FileState.UPLOADING:
        return file
    return file._replace(state=FileState.QUEUED)


def ask_daemon(state_dir: str) -> dict[str, Any] | None:
    """The daemon's status document; None where it cannot be asked."""
    from syncd.cli import daemon_client

    try:
        return daemon_client.get(state_dir, "/status")
    except (daemon_client.NotAnswered, daemon_client.Refused):
        return None


def ask_settling(state_dir: str, shown: str) -> Mapping[str, Any] | None:
    """The settling file whose displayed path is *shown*, if there is one."""
    from urllib.parse import quote

    from syncd.cli import daemon_client

    try:
        answer = daemon_client.get(state_dir, f"/settling?path={quote(shown)}")
    except (daemon_client.NotAnswered, daemon_client.Refused):
        return None
    settling: Mapping[str, Any] | None = answer["settling"]
    return settling


def _progress(live: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return None if live is None else live["progress"]


def _now(
    standing: status.StatusSummary, live: Mapping[str, Any] | None, running: bool
) -> status.StatusSummary:
    """*standing* with the holds that only the daemon knows, and without leases of a dead one."""
    if live is not None:
        return standing._replace(holds=_holds_told(live))
    if running or FileState.UPLOADING not in standing.amounts:
        return standing
    amounts = dict(standing.amounts)
    leased, queued = amounts.pop(FileState.UPLOADING), amounts.get(FileState.QUEUED, Amount(0, 0))
    amounts[FileState.QUEUED] = Amount(leased.files + queued.files, leased.bytes + queued.bytes)
    return standing._replace(amounts=amounts)


# -- what the daemon says to an account that may not read the store --------------------------------


def _holds_told(live: Mapping[str, Any]) -> list[HoldRow]:
    return [
        HoldRow(
            HoldKind(each["kind"]),
            each["since"],
            each["reason"],
            each["advice"],
            each["probe_at"],
            probes=0,
        )
        for each in live["holds"]
    ]


def _standing_told(live: Mapping[str, Any]) -> status.StatusSummary:
    sizes = live["bytes_by_state"]
    return status.StatusSummary(
        roots=[RootReport(**root) for root in live["roots"]],
        holds=_holds_told(live),
        amounts={
            FileState(s): Amount(files, sizes[s]) for s, files in live["files_by_state"].items()
        },
        next_tries=[NextTry(**each) for each in live["next_tries"]],
        oldest_waiting_at=live["oldest_waiting_at"],
        last_success_at=live["last_success_at"],
        abandoned_uploads=live["abandoned_uploads"],
    )


def _files_told(state_dir: str) -> Iterator[FileReport]:
    from syncd.cli import daemon_client

    offset, more = 0, True
    while more:
        page = daemon_client.get(state_dir, f"/files?offset={offset}")
        yield from (
            FileReport(**{**file, "state": FileState(file["state"])}) for file in page["files"]
        )
        offset, more = offset + len(page["files"]), page["more"]


def _summary_told(
    state_dir: str, live: Mapping[str, Any], registered: int | None, on_the_way: int | None
) -> Summary:
    files = list(_files_told(state_dir))
    ignored = {file.reason or "": file for file in files if file.state is FileState.IGNORED}
    counts = Counter(file.reason or "" for file in files if file.state is FileState.IGNORED)
    others = [file for file in files if file.state not in (FileState.REGISTERED, FileState.IGNORED)]
    return Summary(
        True,
        _standing_told(live),
        [file for file in files if file.state is FileState.REGISTERED][:registered],
        [file for file in others if file.state not in status.TO_DO]
        + [file for file in others if file.state in status.TO_DO][:on_the_way],
        [PassedOver(n, reason, ignored[reason].shown) for reason, n in counts.most_common()],
        live["progress"],
    )
