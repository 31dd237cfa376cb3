"""Reads the status of all files from the database, or from the daemon if the account has no access."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Summary(NamedTuple):
    """
    The status for people: skipped files are counted by rule.

    ``registered`` and ``not_in_catalog`` may list fewer files than there are. ``progress`` comes from
    the running daemon; None if none answers.
    """

    running: bool = False
    status: StatusSummary = NOTHING
    registered: Sequence[FileReport] = ()
    not_in_catalog: Sequence[FileReport] = ()
    skipped: Sequence[SkippedFiles] = ()
    progress: Mapping[str, Any] | None = None


def status_document(state_dir: str) -> dict[str, Any]:
    """
    Return the output of ``syncd status --json`` (docs/schemas/status.schema.json).

    An account that may not read the database gets the same from the daemon.

    Raises:
        AccessDenied: This account may neither read the database nor use the socket.
        StateError: The database cannot be read.
    """
    running, live = _ask(state_dir)
    files: Iterable[FileReport] = ()
    status = NOTHING
    try:
        with reading(state_dir, Outline) as outline:
            if outline is not None:
                status, files = StatusSummary.of(outline), list(outline.files())
    except AccessDenied:
        if live is None:
            raise
        status, files = _status_from(live), _files_from_daemon(state_dir)
    status = _corrected(status, live, running)
    return {
        **document(status, running=running, progress=live and live["progress"]),
        "files": [without_stale_lease(file, running)._asdict() for file in files],
    }


def read_summary(state_dir: str, *, registered: int | None, to_do: int | None) -> Summary:
    """
    Read the status with a limited number of files.

    Args:
        registered: Maximum number of files in the catalog to list; None: all.
        to_do: Maximum number of files to upload to list; None: all.

    Raises what ``status_document`` raises.
    """
    running, live = _ask(state_dir)
    try:
        with reading(state_dir, Outline) as outline:
            if outline is None:
                return Summary(running, progress=live and live["progress"])
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
        live and live["progress"],
    )


def _ask(state_dir: str) -> tuple[bool, dict[str, Any] | None]:
    """Return whether a daemon is running, and its status document."""
    running = is_running(state_dir)
    return running, ask_daemon(state_dir) if running else None


def without_stale_lease(file: FileReport, running: bool) -> FileReport:
    """Show an uploading file as queued if no daemon runs: it was left by a daemon that was killed."""
    if running or file.state != FileState.UPLOADING:
        return file
    return file._replace(state=FileState.QUEUED)


def ask_daemon(state_dir: str) -> dict[str, Any] | None:
    """Return the daemon's status document; None if it does not answer."""
    return _get(state_dir, "/status")


def ask_settling(state_dir: str, shown: str) -> Mapping[str, Any] | None:
    """Return the settling file with the displayed path *shown*, or None."""
    from urllib.parse import quote

    answer = _get(state_dir, f"/settling?path={quote(shown)}")
    return answer and answer["settling"]


def _get(state_dir: str, path: str) -> dict[str, Any] | None:
    from syncd.cli import daemon_client

    try:
        return daemon_client.get(state_dir, path)
    except (daemon_client.NotAnswered, daemon_client.Refused):
        return None


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


# The following functions are for an account that may not read the database.


def _holds_from(live: Mapping[str, Any]) -> list[HoldRow]:
    names = ("since", "reason", "advice", "probe_at")
    return [
        HoldRow(kind=HoldKind(hold["kind"]), probes=0, **{name: hold[name] for name in names})
        for hold in live["holds"]
    ]


def _status_from(live: Mapping[str, Any]) -> StatusSummary:
    files, sizes = live["files_by_state"], live["bytes_by_state"]
    return StatusSummary(
        roots=[RootReport(**root) for root in live["roots"]],
        holds=_holds_from(live),
        amounts={FileState(state): Amount(files[state], sizes[state]) for state in files},
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
        for file in page["files"]:
            yield FileReport(**{**file, "state": FileState(file["state"])})
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
