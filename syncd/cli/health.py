"""``syncd health``: one question, one exit code, for whoever asks it every half minute."""

import click

from syncd.cli import fast_path
from syncd.cli.main import Invocation, pass_invocation


@click.command()
@pass_invocation
def health(invocation: Invocation) -> int:
    """
    Exit with 0 while a running syncd is well, with 1 where there is none or it is stuck.

    For the health check of a container: it needs the same --config, --state-dir or environment as
    the syncd that it asks after, no port and no credential. A syncd that waits, for the cloud or
    for a person, is well: syncd status tells what for.
    """
    code, text = fast_path.health(invocation.state_dir)
    click.echo(text, nl=False)
    return code
