"""Reads the status of all files from the database, or from the daemon if the account has no access."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from syncd.cli.daemon_client import is_running
from syncd.errors import AccessDenied
from syncd.monitoring.status import NOTHING, TO_DO, StatusSummary, document
from syncd.states import FileState, HoldKind
from syncd.store.db import reading
from syncd.store.outline import (
    Amount,
    FileReport,
    HoldRow,
    NextTry,
    Outline,
    RootReport,
    SkippedFiles,
)


class FullStatus(NamedTuple):
    """
    The status with every file; empty if there is no database yet.

    ``progress`` comes from the running daemon; None if none answers.
    """

    running: bool
    status: StatusSummary
    files: list[FileReport]
    progress: Mapping[str, Any] | None = None

    def as_document(self) -> dict[str, object]:
        """The output of ``syncd status --json`` (docs/schemas/status.schema.json)."""
        status = document(self.status, running=self.running, progress=self.progress)
        return {**status, "files": [file._asdict() for file in self.files]}


class Summary(NamedTuple):
    """
    The status for people: skipped files are counted by rule.

    ``registered`` and ``not_in_catalog`` may list fewer files than there are.
    """

    running: bool = False
    status: StatusSummary = NOTHING
    registered: Sequence[FileReport] = ()
    not_in_catalog: Sequence[FileReport] = ()
    skipped: Sequence[SkippedFiles] = ()
    progress: Mapping[str, Any] | None = None


def read_files(state_dir: str) -> FullStatus:
    """
    Read the status of every file in *state_dir*, whether or not a daemon is running.

    An account that may not read the database gets the same from the daemon.

    Raises:
        AccessDenied: This account may neither read the database nor use the socket.
        StateError: The database cannot be read.
    """
    running = is_running(state_dir)
    live = ask_daemon(state_dir) if running else None
    try:
        with reading(state_dir, Outline) as outline:
            if outline is None:
                return FullStatus(running, NOTHING, [], _progress(live))
            status, files = StatusSummary.of(outline), list(outline.files())
    except AccessDenied:
        if live is None:
            raise
        status, files = _status_from(live), list(_files_from_daemon(state_dir))
    files = [without_stale_lease(file, running) for file in files]
    return FullStatus(running, _corrected(status, live, running), files, _progress(live))


def read_summary(state_dir: str, *, registered: int | None, to_do: int | None) -> Summary:
    """
    Read the status with a limited number of files.

    Args:
        registered: Maximum number of files in the catalog to list; None: all.
        to_do: Maximum number of files to upload to list; None: all.

    Raises what ``read_files`` raises.
    """
    running = is_running(state_dir)
    live = ask_daemon(state_dir) if running else None
    try:
        with reading(state_dir, Outline) as outline:
            if outline is None:
                return Summary(running, progress=_progress(live))
            status = StatusSummary.of(outline)
            done, left = outline.in_catalog(registered), outline.not_in_catalog(to_do)
            skipped = outline.skipped()
    except AccessDenied:
        if live is None:
            raise
        return _summary_from_daemon(state_dir, live, registered, to_do)
    return Summary(
        running,
        _corrected(status, live, running),
        done,
        [without_stale_lease(file, running) for file in left],
        skipped,
        _progress(live),
    )


def without_stale_lease(file: FileReport, running: bool) -> FileReport:
    """Show an uploading file as queued if no daemon runs: it was left by a daemon that was killed."""
    if running or file.state != FileState.UPLOADING:
        return file
    return file._replace(state=FileState.QUEUED)


def ask_daemon(state_dir: str) -> dict[str, Any] | None:
    """Return the daemon's status document; None if it does not answer."""
    from syncd.cli import daemon_client

    try:
        return daemon_client.get(state_dir, "/status")
    except (daemon_client.NotAnswered, daemon_client.Refused):
        return None


def ask_settling(state_dir: str, shown: str) -> Mapping[str, Any] | None:
    """Return the settling file with the displayed path *shown*, or None."""
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


def _corrected(
    status: StatusSummary, live: Mapping[str, Any] | None, running: bool
) -> StatusSummary:
    """Add the holds that only the daemon knows; without a daemon, count leased files as queued."""
    if live is not None:
        return status._replace(holds=_holds_from(live))
    if running or FileState.UPLOADING not in status.amounts:
        return status
    amounts = dict(status.amounts)
    leased, queued = amounts.pop(FileState.UPLOADING), amounts.get(FileState.QUEUED, Amount(0, 0))
    amounts[FileState.QUEUED] = Amount(leased.files + queued.files, leased.bytes + queued.bytes)
    return status._replace(amounts=amounts)


# -- for an account that may not read the database --------------------------------------------------


def _holds_from(live: Mapping[str, Any]) -> list[HoldRow]:
    return [
        HoldRow(
            HoldKind(hold["kind"]),
            hold["since"],
            hold["reason"],
            hold["advice"],
            hold["probe_at"],
            probes=0,
        )
        for hold in live["holds"]
    ]


def _status_from(live: Mapping[str, Any]) -> StatusSummary:
    sizes = live["bytes_by_state"]
    return StatusSummary(
        roots=[RootReport(**root) for root in live["roots"]],
        holds=_holds_from(live),
        amounts={
            FileState(s): Amount(files, sizes[s]) for s, files in live["files_by_state"].items()
        },
        next_tries=[NextTry(**retry) for retry in live["next_tries"]],
        oldest_waiting_at=live["oldest_waiting_at"],
        last_success_at=live["last_success_at"],
        abandoned_uploads=live["abandoned_uploads"],
    )


def _files_from_daemon(state_dir: str) -> Iterator[FileReport]:
    from syncd.cli import daemon_client

    offset, more = 0, True
    while more:
        page = daemon_client.get(state_dir, f"/files?offset={offset}")
        yield from (
            FileReport(**{**file, "state": FileState(file["state"])}) for file in page["files"]
        )
        offset, more = offset + len(page["files"]), page["more"]


def _summary_from_daemon(
    state_dir: str, live: Mapping[str, Any], registered: int | None, to_do: int | None
) -> Summary:
    files = list(_files_from_daemon(state_dir))
    ignored = {file.reason or "": file for file in files if file.state is FileState.IGNORED}
    counts = Counter(file.reason or "" for file in files if file.state is FileState.IGNORED)
    others = [file for file in files if file.state not in (FileState.REGISTERED, FileState.IGNORED)]
    return Summary(
        True,
        _status_from(live),
        [file for file in files if file.state is FileState.REGISTERED][:registered],
        [file for file in others if file.state not in TO_DO]
        + [file for file in others if file.state in TO_DO][:to_do],
        [SkippedFiles(n, reason, ignored[reason].shown) for reason, n in counts.most_common()],
        live["progress"],
    )
