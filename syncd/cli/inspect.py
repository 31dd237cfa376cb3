"""``syncd file``, ``queue`` and ``history``: one file, the order of uploads, and past events."""

import dataclasses
import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from syncd.cli import tables
from syncd.cli.daemon_client import is_running
from syncd.cli.main import Invocation, json_option, pass_invocation, print_json
from syncd.cli.path_lookup import NoSuchFile, Place, resolve
from syncd.cli.status_data import ask_daemon, ask_settling, without_stale_lease
from syncd.cli.status_text import more_settling, time_left
from syncd.cli.tables import Cell, Item, Line, Table, state_cell
from syncd.config.settings import Settings
from syncd.core.files.selection import Selected
from syncd.formatting import size_text, time_text
from syncd.ingest.comparer import Comparer
from syncd.ingest.dry_run import comparer_of, roots_of
from syncd.store.db import reading
from syncd.store.outline import FileReport
from syncd.store.reports import EventReport, FileDetail, Report
from syncd.types import Fingerprint, KnownFile, Verdict, printable

QUEUE_SHOWN = 50

NOT_SCANNED = "not scanned yet; the next scan of a running syncd, or syncd --once, finds it"


@dataclass(frozen=True, slots=True)
class Everything:
    """
    Everything known about one file.

    ``on_disk`` compares it with the last check: ``unchanged``, ``changed``, ``new`` or ``gone``.
    ``settling`` is the daemon's entry while the file still changes.
    """

    place: Place
    on_disk: str
    rule: str
    detail: FileDetail | None
    events: list[EventReport]
    settling: Mapping[str, Any] | None


@click.command()
@click.argument("path", type=click.Path())
@json_option
@pass_invocation
def file(invocation: Invocation, path: str, as_json: bool) -> int:
    """
    Show everything known about one file: its status, the reason, and its history.

    PATH may be absolute, relative, or as shown by `syncd status` (loras/ink.safetensors).
    """
    found = _find(invocation.load().settings, path)
    if as_json:
        print_json(_file_document(found))
    else:
        _show_file(found)
    return 0


@click.command()
@json_option
@click.option(
    "--all", "everything", is_flag=True, help=f"List all files, not only the first {QUEUE_SHOWN}."
)
@pass_invocation
def queue(invocation: Invocation, as_json: bool, everything: bool) -> int:
    """Show running uploads and what comes next, in the order of upload."""
    state_dir = os.fspath(invocation.load().settings.state_dir)
    running = is_running(state_dir)
    with reading(state_dir, Report) as report:
        queued = () if report is None else report.queue(_now_ms())
        files = [without_stale_lease(file, running) for file in queued]
    live = ask_daemon(state_dir) if running else None
    total = live["progress"]["settling_files"] if live else 0
    settling = live["progress"]["settling"] if live else []
    if as_json:
        listed = [file._asdict() for file in files]
        document = {"running": running, "files": listed}
        print_json({**document, "settling_files": total, "settling": settling})
    else:
        _show_queue(files, len(files) if everything else QUEUE_SHOWN, settling, total)
    return 0


@click.command()
@click.argument("path", type=click.Path(), required=False)
@click.option(
    "--days", type=click.IntRange(0), default=7, show_default=True, help="Days to look back."
)
@click.option(
    "--most", type=click.IntRange(1), default=100, show_default=True,
    help="Maximum number of events; older ones are left out.",
)  # fmt: skip
@json_option
@pass_invocation
def history(invocation: Invocation, path: str | None, days: int, most: int, as_json: bool) -> int:
    """
    Show past events, oldest first: when files were queued, uploaded, retried or failed, and why.

    With PATH, show only the events of that file.
    """
    events = _history(invocation.load().settings, path, _now_ms() - days * 86_400_000, most)
    if as_json:
        print_json({"events": [event._asdict() for event in events]})
    else:
        _show_events(events, named=path is None)
    return 0


def _find(settings: Settings, given: str) -> Everything:
    state_dir = os.fspath(settings.state_dir)
    roots, tree = roots_of(settings)
    with reading(state_dir, Report) as report:
        place = resolve(given, settings, roots, report)
        if os.path.isdir(place.path):
            raise NoSuchFile(f"{place.shown} is a folder. Name a file in it.")
        detail = None if report is None else report.file(**_key(place))
        events = [] if report is None else report.events_of(**_key(place))
    running = is_running(state_dir)
    if detail is not None:
        detail = dataclasses.replace(detail, file=without_stale_lease(detail.file, running))
    comparer = comparer_of(settings, roots, tree)
    now = _fingerprint_now(comparer, place)
    known = None if detail is None else detail.fingerprint
    if now is None:
        on_disk = "gone"
    elif known is None:
        on_disk = "new"
    else:
        on_disk = "unchanged" if known.same_file_as(now) else "changed"
    rule = "none; the file is no longer on disk"
    if (fingerprint := now or known) is not None:
        rule = _rule(
            comparer, KnownFile(place.root.id, place.rel_path, fingerprint, Verdict.WANTED)
        )
    elif not events:
        raise NoSuchFile(f"{place.shown} {_what_is_at(place.path)}.")
    settling = ask_settling(state_dir, place.shown) if running else None
    return Everything(place, on_disk, rule, detail, events, settling)


def _fingerprint_now(comparer: Comparer, place: Place) -> Fingerprint | None:
    try:
        found = comparer.find(place.root, place.rel_path)
    except OSError as error:
        raise NoSuchFile(f"{place.shown} cannot be read: {error.strerror}.") from None
    return None if found is None else found.fingerprint


def _what_is_at(path: str) -> str:
    """Describe *path*, which is not a regular file that syncd uploads."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return "does not exist, and syncd has no record of it"
    if stat.S_ISLNK(mode):
        return _what_link(path)
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a special file")
    return f"is {kind}, not a regular file"


def _what_link(path: str) -> str:
    target = printable(os.readlink(path))  # noqa: PTH115, names are bytes
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a link that points to itself"
        return f"is a link to {target}, which does not exist"
    if stat.S_ISREG(mode):
        return f"is a link to {target}, which scan.symlinks does not follow"
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a special file")
    return f"is a link to {target}, {kind}, not a regular file"


_KINDS = (
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)


def _rule(comparer: Comparer, file: KnownFile) -> str:
    """Describe the rule of the current configuration that selects or skips the file."""
    judged = comparer.judge(file)
    if isinstance(judged, Selected):
        return f"selected: {judged.rule}"
    return f"{judged.verdict}: {judged.reason}"


def _key(place: Place) -> dict[str, Any]:
    return {
        "root": place.root.path,
        "rel_path": place.rel_path,
        "real_path": os.path.realpath(place.root.path),
        "type_key": place.root.type_key,
    }


def _history(settings: Settings, path: str | None, since_ms: int, most: int) -> list[EventReport]:
    with reading(os.fspath(settings.state_dir), Report) as report:
        if path is None:
            return [] if report is None else report.history(since_ms=since_ms, most=most)
        place = resolve(path, settings, roots_of(settings)[0], report)
        events = [] if report is None else report.events_of(**_key(place))
        return [event for event in events if event.at >= since_ms][-most:]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _file_document(found: Everything) -> dict[str, object]:
    detail = found.detail
    job = detail and detail.job
    return {
        "path": found.place.shown,
        "on_disk": found.on_disk,
        "settling": found.settling,
        "rule": printable(found.rule),
        "file": detail and detail.file._asdict(),
        "fingerprint": detail and detail.fingerprint._asdict(),
        "judged_at": detail and detail.judged_at,
        "registered_at": detail and detail.registered_at,
        "job": job and job._asdict(),
        "events": [event._asdict() for event in found.events],
    }


def _show_file(found: Everything) -> None:
    facts = [(name, printable(value)) for name, value in _facts(found) if value]
    width = max(len(name) for name, _ in facts)
    lines = [Line(f"  {name.ljust(width)}  {value}") for name, value in facts]
    tables.show([Line(found.place.shown, "bold"), *lines])
    if found.events:
        tables.show([Line("")])
        _show_events(found.events, named=False)


def _facts(found: Everything) -> Iterator[tuple[str, str | None]]:
    """Yield name and value of each fact, the most important first; None: unknown."""
    detail = found.detail
    if detail is None and found.on_disk == "gone":
        yield "on disk", "gone; its history is listed below"
        return
    if detail is None:
        yield "state", _settling_text(found) or NOT_SCANNED
        yield "rule", found.rule
        return
    file, job = detail.file, detail.job
    yield "state", file.state
    yield "reason", file.reason
    yield "what to do", file.advice
    on_disk = "unchanged since it was checked" if found.on_disk == "unchanged" else found.on_disk
    yield "on disk", _settling_text(found) or on_disk
    yield "rule", found.rule
    yield "size", f"{file.size} bytes ({size_text(file.size)})"
    yield "model path", file.model_path
    yield "sha256", file.sha256
    if file.parts:
        each = "" if job is None or job.part_size is None else f", {size_text(job.part_size)} each"
        yield "parts", f"{file.parts_done} of {file.parts} done{each}"
    if file.record_id:
        how = "adopted" if file.adopted else "registered"
        at = "" if detail.registered_at is None else f", {how} {time_text(detail.registered_at)}"
        yield "record", f"{file.record_id}{at}"
    if file.run_after is not None:
        after = f"{time_text(file.run_after)} or later (attempts so far: {file.attempt})"
        yield "next attempt", after
    yield "storage key", None if job is None else job.storage_key
    yield "fingerprint", ", ".join(f"{k} {v}" for k, v in detail.fingerprint._asdict().items())
    yield "checked", time_text(detail.judged_at)


def _settling_text(found: Everything) -> str | None:
    """Describe what a settling file waits for; None if it is not settling."""
    if found.settling is None:
        return None
    left = time_left(found.settling)
    if left is None:
        return f"still changing: {found.settling['reason']}"
    return f"still changing; it is checked when it has not changed for another {left}"


def _show_queue(
    files: list[FileReport], most: int, settling: list[dict[str, Any]], settling_files: int
) -> None:
    if not files and not settling:
        tables.show([Line("Nothing is uploading, and nothing is waiting.")])
        return
    rows = [_queue_row(file, _now_ms()) for file in files[:most]]
    for file in settling:
        left = time_left(file)
        when = "" if left is None else f"{left} left"
        size = size_text(file["size"])
        rows.append((state_cell("settling"), size, file["path"], when, file["reason"] or ""))
    items: list[Item] = [Table(None, ("state", "size", "file", "when", "reason"), rows)]
    if len(files) > most:
        items.append(Line(f"… and {len(files) - most} more: syncd queue --all", "dim"))
    tables.show([*items, *more_settling(settling_files, len(settling))])


def _queue_row(file: FileReport, now_ms: int) -> tuple[Cell, str, str, str, str]:
    if file.run_after is not None and file.run_after > now_ms:
        when = time_text(file.run_after)
    else:
        when = "" if file.parts is None else f"part {file.parts_done} of {file.parts}"
    return state_cell(file.state), size_text(file.size), file.shown, when, file.reason or ""


def _show_events(events: list[EventReport], *, named: bool) -> None:
    if not events:
        tables.show([Line("No events in this period.")])
        return
    columns = ["when", "state", "event", "reason"]
    rows = [
        [time_text(each.at), each.to_state, each.event or "", printable(each.reason or "")]
        for each in events
    ]
    if named:
        columns.insert(1, "file")
        for row, event in zip(rows, events, strict=True):
            row.insert(1, event.shown)
    tables.show([Table(None, columns, rows)])
