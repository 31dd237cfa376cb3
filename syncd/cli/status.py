"""``syncd status``: where each file stands, what syncd does, and what everything waits for."""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from syncd import overview
from syncd.cli import Invocation, daemon, pass_invocation
from syncd.cli.reading import Reading, progress_of, read_files, read_summary
from syncd.errors import SyncdError
from syncd.lock import is_locked
from syncd.model import printable


class NothingToWatch(SyncdError):
    """No daemon runs, or it has ended."""

    exit_code = 75


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@click.option("--all", "everything", is_flag=True, help="List the files in the catalog as well.")
@click.option(
    "--watch", is_flag=True, help="A live screen of a running syncd; with --json a line a second."
)
@pass_invocation
def status(invocation: Invocation, as_json: bool, everything: bool, watch: bool) -> int:
    """
    Tell where each file stands and why, and what syncd is doing.

    Reads only; a running syncd is not disturbed.
    """
    state_dir = invocation.state_dir()
    if watch:
        return _watch(state_dir, as_json)
    if as_json:
        reading = read_files(state_dir)
        progress = progress_of(state_dir) if reading.running else None
        click.echo(json.dumps(as_document(reading, progress), indent=2))
    else:
        _show(state_dir, everything)
    return 0


def _watch(state_dir: str, as_json: bool) -> int:
    """Until Ctrl-C, which is how a person says that it was enough: 0."""
    if not as_json and not sys.stdout.isatty():
        raise click.UsageError("--watch needs a terminal; for a script add --json")
    if not is_locked(state_dir):
        raise NothingToWatch(
            f"No syncd runs on {printable(state_dir)}. Start it with syncd, or look once: syncd status"
        )
    try:
        _follow(daemon.events(state_dir), as_json)
    except KeyboardInterrupt:
        return 0
    raise NothingToWatch("That syncd has ended. Look at what it left: syncd status")


def _follow(documents: Iterator[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for document in documents:
            click.echo(json.dumps(document))
        return
    from rich.console import Console

    from syncd.cli import screen

    screen.watch(documents, Console())


def as_document(reading: Reading, progress: dict[str, object] | None = None) -> dict[str, object]:
    """The ``--json`` output: a written contract."""
    document = overview.document(reading.standing, running=reading.running, progress=progress)
    return {**document, "files": [dataclasses.asdict(file) for file in reading.files]}


def _show(state_dir: str, everything: bool) -> None:
    from syncd.cli import render

    summary = read_summary(state_dir, most=None if everything else 0)
    progress = progress_of(state_dir) if summary.running else None
    console = render.console()
    console.print(f"syncd is {'running' if summary.running else 'not running'}")
    if not summary.standing.roots:
        console.print("Nothing was scanned yet. Start it with: syncd --once")
        return
    render.summary(console, summary, unsettled={}, problems={})
    last_ms = summary.standing.last_success_at
    if last_ms is not None:
        console.print(f"last success: {render.time_text(last_ms)}")
    if progress is not None:
        render.activity(console, progress, time.time_ns() // 1_000_000)
