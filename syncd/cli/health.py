"""``syncd health``: one question, one exit code, for whoever asks it every half minute."""

import click

from syncd.cli import Invocation, pass_invocation
from syncd.errors import ConfigError
from syncd.model import printable
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
        state_dir = invocation.state_dir()
    except ConfigError as error:
        click.echo(f"unwell: the configuration cannot be read: {error}")
        return UNWELL
    if not is_locked(state_dir):
        click.echo(f"unwell: no syncd is running on {printable(state_dir)}")
        return UNWELL
    click.echo(f"well: a syncd is running on {printable(state_dir)}")
    return WELL
