"""``syncd health``: one question, one exit code, for whoever asks it every half minute."""

import os

import click

from syncd.cli import Invocation, pass_invocation
from syncd.errors import SyncdError
from syncd.lock import is_locked
from syncd.model import printable
from syncd.places import SOCKET

WELL, UNWELL = 0, 1

STUCK_S = 1800.0
"""What should move and has not for so long is stuck: a body that stalls is broken off after five
minutes, and the slowest answer is waited for ten."""


@click.command()
@pass_invocation
def health(invocation: Invocation) -> int:
    """
    Exit with 0 while a running syncd is well, with 1 where there is none or it is stuck.

    For the health check of a container: it needs the same --config, --state-dir or environment as
    the syncd that it asks after, no port and no credential. A syncd that waits, for the cloud or
    for a person, is well: syncd status tells what for.
    """
    try:
        code, said = _asked(invocation.state_dir())
    except SyncdError as error:
        code, said = UNWELL, str(error)
    click.echo(f"{'well' if code == WELL else 'unwell'}: {said}")
    return code


def _asked(state_dir: str) -> tuple[int, str]:
    from syncd.cli import daemon

    shown = printable(state_dir)
    if not is_locked(state_dir):
        return UNWELL, f"no syncd is running on {shown}"
    if not os.path.lexists(os.path.join(state_dir, SOCKET)):
        # It has only just begun, or is a backfill: the lock is all there is to go by.
        return WELL, f"a syncd is at work on {shown}, and offers no socket to ask it more"
    live = daemon.ask(state_dir, "/live")
    if live["running"] and live["idle_s"] > STUCK_S:
        return UNWELL, f"{live['running']} files under way and nothing moved for {live['idle_s']} s"
    return WELL, f"a syncd is running on {shown}; files under way: {live['running']}"
