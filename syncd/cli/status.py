"""``syncd status``: where each file stands, and what everything waits for."""

import dataclasses
import json
import os
from collections import Counter

import click

from syncd.cli import Invocation, pass_invocation
from syncd.cli.reading import Reading, read_files

SCHEMA = 1
"""Version of the ``--json`` output; see docs/schemas/status.schema.json."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@click.option("--all", "everything", is_flag=True, help="List the files in the catalog as well.")
@pass_invocation
def status(invocation: Invocation, as_json: bool, everything: bool) -> int:
    """Tell where each file stands, and why. Reads only; a running syncd is not disturbed."""
    loaded = invocation.load()
    reading = read_files(os.fspath(loaded.settings.state_dir))
    if as_json:
        click.echo(json.dumps(as_document(reading), indent=2))
        return 0
    _show(reading, everything)
    return 0


def as_document(reading: Reading) -> dict[str, object]:
    """The ``--json`` output: a written contract."""
    counts = Counter(file.state for file in reading.files)
    bytes_by_state: Counter[str] = Counter()
    for file in reading.files:
        bytes_by_state[file.state] += file.size
    return {
        "schema": SCHEMA,
        "running": reading.running,
        "roots": [dataclasses.asdict(root) for root in reading.roots],
        "holds": [
            {
                "kind": hold.kind,
                "since": hold.since,
                "why": hold.why,
                "what_to_do": hold.advice,
                "needs_person": hold.needs_person,
                "probe_at": hold.probe_at,
            }
            for hold in reading.holds
        ],
        "files_by_state": dict(counts),
        "bytes_by_state": dict(bytes_by_state),
        "abandoned_uploads": reading.abandoned_uploads,
        "files": [dataclasses.asdict(file) for file in reading.files],
    }


def _show(reading: Reading, everything: bool) -> None:
    from syncd.cli import render

    console = render.console()
    console.print(f"syncd is {'running' if reading.running else 'not running'}")
    if not reading.roots:
        console.print("Nothing was scanned yet. Start it with: syncd --once")
        return
    render.summary(
        console, reading.files, unsettled={}, problems={}, holds=reading.holds, listed=everything
    )
