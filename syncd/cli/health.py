"""``syncd health``: the health check of containers and monitoring."""

import click

from syncd.cli import fast_path
from syncd.cli.main import Invocation, pass_invocation


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
