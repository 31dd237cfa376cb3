"""``syncd verify``: reads the files again, and compares them with what was registered."""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import click

from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.path_lookup import resolve
from syncd.config.settings import Settings
from syncd.core.exit_codes import Exit
from syncd.errors import FileChanged, JobError, RootUnavailable
from syncd.fs import hashing
from syncd.ingest.dry_run import roots_of
from syncd.store.db import reading
from syncd.store.reports import Registered, Report
from syncd.types import printable

SCHEMA = 1
"""Version of the ``--json`` output; see docs/schemas/verify.schema.json."""


@dataclass(frozen=True, slots=True)
class Verified:
    """One file: ``same`` as its record, or what else it is. ``sha256`` is None where not read."""

    file: Registered
    state: Literal["same", "differs", "unreadable", "gone"]
    reason: str | None
    sha256: str | None


@click.command()
@click.argument("path", type=click.Path(), required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@pass_invocation
def verify(invocation: Invocation, path: str | None, as_json: bool) -> int:
    """
    Read the registered files again and compare each byte with what the catalog was told.

    PATH, a file or a folder, takes only what is there. A file that differs is named, and the exit
    code is then 1. A running syncd is not disturbed.
    """
    settings = invocation.load().settings
    files = _registered(settings, path)
    with _progress(files) as on_bytes:
        verified = [_verified(file, on_bytes) for file in files]
    _require_trees(verified, whole=path is None)
    if as_json:
        click.echo(json.dumps(_document(verified), indent=2))
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
        return Verified(file, "unreadable", f"{error}. Try again when it stands still.", None)
    except JobError as error:
        reason = " ".join(filter(None, [f"{str(error).rstrip('.')}.", error.advice]))
        return Verified(file, "unreadable", reason, None)
    if plan.sha256 == file.sha256:
        return Verified(file, "same", None, plan.sha256)
    if file.fingerprint.same_file_as(now) or file.fingerprint.only_ctime_moved(now):
        reason = (
            "its bytes changed, its size and date did not: the disk, or a program that put it back. "
            "If the catalog's copy is the good one, put it back; else touch the file."
        )
    else:
        reason = "it was changed since; a running syncd registers it anew, and so does syncd --once"
    return Verified(file, "differs", reason, plan.sha256)


def _require_trees(verified: Sequence[Verified], *, whole: bool) -> None:
    """A tree that is not there, or lost all it had at once, is judged not at all."""
    for root in {each.file.root for each in verified}:
        lost_all = all(each.state == "gone" for each in verified if each.file.root == root)
        if not os.path.isdir(root) or (whole and lost_all):
            raise RootUnavailable(
                f"{printable(root)} holds none of its registered files. "
                "Nothing was judged: is its disk mounted?"
            )


@contextmanager
def _progress(files: Iterable[Registered]) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (BarColumn(None), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("reading", total=sum(file.fingerprint.size for file in files))
        yield lambda count: bar.advance(task, count)


def _document(verified: Sequence[Verified]) -> dict[str, object]:
    """The ``--json`` output: a written contract."""
    return {
        "schema": SCHEMA,
        "files": [
            {
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
            for each in verified
        ],
        "files_by_state": dict(Counter(each.state for each in verified)),
        "bytes_read": _read(verified),
    }


def _read(verified: Iterable[Verified]) -> int:
    return sum(each.file.fingerprint.size for each in verified if each.sha256 is not None)


def _show(verified: Sequence[Verified]) -> None:
    from rich.text import Text

    from syncd.cli.render import blank_table, console
    from syncd.formatting import size_text

    screen = console()
    odd = [each for each in verified if each.state != "same"]
    if odd:
        listed = blank_table(None, "state", "file", "record", "why, and what to do")
        for each in odd:
            file = each.file
            path = file.rel_path if file.root_type is None else f"{file.root}/{file.rel_path}"
            listed.add_row(
                each.state, Text(printable(path)), Text(file.record_id), Text(each.reason or "")
            )
        screen.print(listed)
    counts = Counter(each.state for each in verified)
    text = ", ".join(f"{count} {state}" for state, count in counts.items())
    text = text or "no registered file there; syncd status tells where files stand"
    screen.print(Text(f"{text}; {size_text(_read(verified))} read", style="bold"))
