"""``syncd status`` and ``syncd health``."""

import json
import sys

import click

from syncd.cli import daemon_client, fast_path, tables
from syncd.cli.daemon_client import is_running
from syncd.cli.main import Invocation, json_option, pass_invocation
from syncd.errors import SyncdError
from syncd.types import printable


class NothingToWatch(SyncdError):
    exit_code = 75


@click.command()
@json_option
@click.option(
    "--all", "everything", is_flag=True, help="List all files, including those in the catalog."
)
@click.option(
    "--watch", is_flag=True,
    help="Show a live screen of a running syncd; with --json, one line per second.",
)  # fmt: skip
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
    documents = daemon_client.events(state_dir)
    try:
        if as_json:
            for document in documents:
                click.echo(json.dumps(document))
        else:
            from syncd.cli import live_view

            live_view.watch(documents)
    except KeyboardInterrupt:
        return 0
    raise NothingToWatch("syncd has stopped. To see the last status: syncd status")


@click.command()
@pass_invocation
def health(invocation: Invocation) -> int:
    """
    Exit with 0 if a running syncd is healthy, with 1 if none is running or it is stuck.

    For the health check of a container. It needs the same --config, --state-dir or environment as
    the running syncd, but no port and no credential. A syncd on hold (waiting for the cloud or for
    an operator) is healthy; `syncd status` shows the reason.
    """
    code, text = fast_path.health(invocation.state_dir)
    click.echo(text, nl=False)
    return code
