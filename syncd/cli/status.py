"""``syncd status``: the status of every file, what syncd is doing, and holds."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from syncd.cli import daemon_client, fast_path, tables
from syncd.cli.daemon_client import is_running
from syncd.cli.main import Invocation, pass_invocation
from syncd.errors import SyncdError
from syncd.types import printable


class NothingToWatch(SyncdError):
    """No daemon is running."""

    exit_code = 75


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="List all files, including those in the catalog.",
)
@click.option(
    "--watch",
    is_flag=True,
    help="Show a live screen of a running syncd; with --json, one line per second.",
)
@pass_invocation
def status(invocation: Invocation, as_json: bool, everything: bool, watch: bool) -> int:
    """
    Show the status of every file, and what syncd is doing.

    A hold is a condition that makes all uploads wait, such as a lost connection or an expired
    credential. Status shows each hold with its reason and what to do.

    This command only reads and does not disturb a running syncd.
    """
    state_dir = invocation.state_dir()
    if watch:
        return _watch(state_dir, as_json)
    if as_json:
        click.echo(fast_path.status_json(state_dir), nl=False)
    else:
        tables.show(fast_path.status(state_dir, everything))
    return 0


def _watch(state_dir: str, as_json: bool) -> int:
    if not as_json and not sys.stdout.isatty():
        raise click.UsageError("--watch needs a terminal; for a script add --json")
    if not is_running(state_dir):
        raise NothingToWatch(
            f"syncd is not running on {printable(state_dir)}. "
            "Start it with: syncd. To see the last status: syncd status"
        )
    try:
        _follow(daemon_client.events(state_dir), as_json)
    except KeyboardInterrupt:
        return 0
    raise NothingToWatch("syncd has stopped. To see the last status: syncd status")


def _follow(documents: Iterator[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for document in documents:
            click.echo(json.dumps(document))
        return
    from rich.console import Console

    from syncd.cli import live_view

    live_view.watch(documents, Console())
