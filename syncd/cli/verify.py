"""``syncd verify``: reads registered files again and compares their hashes."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import click

from syncd.cli import tables
from syncd.cli.main import Invocation, json_option, pass_invocation, print_json
from syncd.cli.path_lookup import resolve
from syncd.cli.tables import Line, Table
from syncd.config.settings import Settings
from syncd.core.exit_codes import Exit
from syncd.errors import FileChanged, JobError, RootUnavailable
from syncd.formatting import size_text
from syncd.fs import hashing
from syncd.ingest.dry_run import roots_of
from syncd.store.db import reading
from syncd.store.reports import Registered, Report
from syncd.types import printable


@dataclass(frozen=True, slots=True)
class Verified:
    """The result for one file; ``sha256`` is None if it was not read."""

    file: Registered
    state: Literal["same", "differs", "unreadable", "gone"]
    reason: str | None
    sha256: str | None


@click.command()
@click.argument("path", type=click.Path(), required=False)
@json_option
@pass_invocation
def verify(invocation: Invocation, path: str | None, as_json: bool) -> int:
    """
    Read registered files again and compare their hashes with the catalog records.

    With PATH, a file or a folder, check only the files there. Files that differ are listed, and the
    exit code is then 1. A running syncd is not disturbed.
    """
    settings = invocation.load().settings
    files = _registered(settings, path)
    with _progress(files) as on_bytes:
        verified = [_verified(file, on_bytes) for file in files]
    _require_trees(verified, whole=path is None)
    if as_json:
        print_json(
            {
                "files": [_as_dict(each) for each in verified],
                "files_by_state": dict(Counter(each.state for each in verified)),
                "bytes_read": _read(verified),
            }
        )
    else:
        _show(verified)
    bad = any(each.state in ("differs", "unreadable") for each in verified)
    return Exit.SOME_FAILED if bad or (path is not None and not files) else Exit.DONE


def _registered(settings: Settings, path: str | None) -> list[Registered]:
    with reading(os.fspath(settings.state_dir), Report) as report:
        if path is None:
            return [] if report is None else list(report.registered())
        place = resolve(path, settings, roots_of(settings)[0], report)
        every = () if report is None else report.registered()
        return [file for file in every if place.holds(file.root, file.root_type, file.rel_path)]


def _verified(file: Registered, on_bytes: Callable[[int], None]) -> Verified:
    path = os.path.join(file.root, file.rel_path)
    try:
        now = hashing.read_fingerprint(path)
        plan = hashing.hash_file(path, now, stop=threading.Event(), on_bytes=on_bytes)
    except FileChanged as error:
        if not os.path.lexists(path):
            return Verified(file, "gone", None, None)
        reason = f"{error}. Try again when the file no longer changes."
        return Verified(file, "unreadable", reason, None)
    except JobError as error:
        reason = " ".join(filter(None, [f"{str(error).rstrip('.')}.", error.advice]))
        return Verified(file, "unreadable", reason, None)
    if plan.sha256 == file.sha256:
        return Verified(file, "same", None, plan.sha256)
    if file.fingerprint.same_file_as(now) or file.fingerprint.only_ctime_moved(now):
        reason = (
            "its content changed but its size and date did not: a disk error, or a program that reset "
            "the date. If the catalog has the right content, restore the file; otherwise touch it."
        )
    else:
        reason = "it changed since; a running syncd, or syncd --once, uploads it again"
    return Verified(file, "differs", reason, plan.sha256)


def _require_trees(verified: Sequence[Verified], *, whole: bool) -> None:
    """Refuse to judge a root that is missing, or whose files are all gone: its disk is not mounted."""
    for root in {each.file.root for each in verified}:
        lost_all = all(each.state == "gone" for each in verified if each.file.root == root)
        if not os.path.isdir(root) or (whole and lost_all):
            raise RootUnavailable(
                f"{printable(root)} contains none of its registered files. "
                "Nothing was checked: is its disk mounted?"
            )


@contextmanager
def _progress(files: Iterable[Registered]) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (BarColumn(None), DownloadColumn(binary_units=True), TransferSpeedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("reading", total=sum(file.fingerprint.size for file in files))
        yield lambda count: bar.advance(task, count)


def _as_dict(each: Verified) -> dict[str, object]:
    return {
        "root": printable(each.file.root),
        "path": printable(each.file.rel_path),
        "model_path": each.file.model_path,
        "record_id": each.file.record_id,
        "size": each.file.fingerprint.size,
        "state": each.state,
        "reason": each.reason,
        "sha256": each.file.sha256,
        "sha256_now": each.sha256,
    }


def _read(verified: Iterable[Verified]) -> int:
    return sum(each.file.fingerprint.size for each in verified if each.sha256 is not None)


def _show(verified: Sequence[Verified]) -> None:
    rows = []
    for each in verified:
        if each.state != "same":
            file = each.file
            path = file.rel_path if file.root_type is None else f"{file.root}/{file.rel_path}"
            rows.append((each.state, printable(path), file.record_id, each.reason or ""))
    if rows:
        tables.show([Table(None, ("state", "file", "record", "reason, and what to do"), rows)])
    counts = Counter(each.state for each in verified)
    text = ", ".join(f"{count} {state}" for state, count in counts.items())
    text = text or "no registered file there; to see all files: syncd status"
    tables.show([Line(f"{text}; {size_text(_read(verified))} read", "bold")])
