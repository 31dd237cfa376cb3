"""``syncd status``: where each file stands, what syncd does, and what everything waits for."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from syncd.cli import daemon_client, fast_path
from syncd.cli.daemon_client import is_running
from syncd.cli.main import Invocation, pass_invocation
from syncd.errors import SyncdError
from syncd.types import printable


class NothingToWatch(SyncdError):
    """No daemon runs, or it has ended."""

    exit_code = 75


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="List every file: those in the catalog and all that are on their way, too.",
)
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
        click.echo(fast_path.status_json(state_dir), nl=False)
    else:
        from syncd.cli import render

        render.show(render.console(), fast_path.status(state_dir, everything))
    return 0


def _watch(state_dir: str, as_json: bool) -> int:
    """Until Ctrl-C, which is how a person says that it was enough: 0."""
    if not as_json and not sys.stdout.isatty():
        raise click.UsageError("--watch needs a terminal; for a script add --json")
    if not is_running(state_dir):
        raise NothingToWatch(
            f"No syncd runs on {printable(state_dir)}. Start it with syncd, or look once: syncd status"
        )
    try:
        _follow(daemon_client.events(state_dir), as_json)
    except KeyboardInterrupt:
        return 0
    raise NothingToWatch("That syncd has ended. Look at what it left: syncd status")


def _follow(documents: Iterator[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for document in documents:
            click.echo(json.dumps(document))
        return
    from rich.console import Console

    from syncd.cli import live_view

    live_view.watch(documents, Console())
