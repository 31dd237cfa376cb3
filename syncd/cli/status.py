"""``syncd status``: where each file stands, and what everything waits for."""

import dataclasses
import json

import click

from syncd import overview
from syncd.cli import Invocation, pass_invocation
from syncd.cli.reading import Reading, progress_of, read_files


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@click.option("--all", "everything", is_flag=True, help="List the files in the catalog as well.")
@pass_invocation
def status(invocation: Invocation, as_json: bool, everything: bool) -> int:
    """Tell where each file stands, and why. Reads only; a running syncd is not disturbed."""
    state_dir = invocation.state_dir()
    reading = read_files(state_dir)
    if as_json:
        click.echo(json.dumps(as_document(reading, progress_of(state_dir)), indent=2))
        return 0
    _show(reading, everything)
    return 0


def as_document(reading: Reading, progress: dict[str, object] | None = None) -> dict[str, object]:
    """The ``--json`` output: a written contract."""
    document = overview.document(reading.standing, running=reading.running, progress=progress)
    return {**document, "files": [dataclasses.asdict(file) for file in reading.files]}


def _show(reading: Reading, everything: bool) -> None:
    from syncd.cli import render

    console = render.console()
    console.print(f"syncd is {'running' if reading.running else 'not running'}")
    if not reading.standing.roots:
        console.print("Nothing was scanned yet. Start it with: syncd --once")
        return
    render.summary(
        console, reading.files, unsettled={}, problems={}, holds=reading.holds, listed=everything
    )
