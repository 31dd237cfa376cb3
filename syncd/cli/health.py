"""``syncd health``: one question, one exit code, for whoever asks it every half minute."""

import os

import click

from syncd.cli import Invocation, pass_invocation
from syncd.model import printable
from syncd.places import state_dir_of
from syncd.store import is_locked

WELL, UNWELL = 0, 1


@click.command()
@pass_invocation
def health(invocation: Invocation) -> int:
    """
    Exit with 0 while a running syncd is well, with 1 where there is none or it is stuck.

    For the health check of a container: it needs the same --config, --state-dir or environment as
    the syncd that it asks after, no port and no credential.
    """
    try:
        state_dir = os.fspath(
            state_dir_of(
                invocation.overrides["state_dir"], invocation.config_file, dict(os.environ)
            )
        )
    except (OSError, ValueError) as error:
        click.echo(f"unwell: the configuration cannot be read: {printable(str(error))}")
        return UNWELL
    if not is_locked(state_dir):
        click.echo(f"unwell: no syncd is running on {printable(state_dir)}")
        return UNWELL
    click.echo(f"well: a syncd is running on {printable(state_dir)}")
    return WELL
