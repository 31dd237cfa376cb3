"""The commands that tell syncd what to do: on a running daemon, else on the store at rest."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from syncd.cli import daemon_client
from syncd.cli.daemon_client import is_running
from syncd.cli.main import Invocation, pass_invocation
from syncd.control import actions
from syncd.core.transfer import rates
from syncd.errors import AccessDenied, SyncdError
from syncd.formatting import size_text
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.store.store import Store
from syncd.types import printable

LISTED = 20
"""Files that are named one by one."""

SOME_LEFT = 1


class NothingRuns(SyncdError):
    """What was asked for needs a running daemon, or one that ran before."""

    exit_code = 75


paths_argument = click.argument("paths", nargs=-1, metavar="[PATH]...")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.command()
@pass_invocation
def pause(invocation: Invocation) -> int:
    """
    Send nothing more until `syncd resume`.

    What is on the wire ends, and parts that were sent stay sent; nothing else begins. Changes on
    disk are still seen and queued. The pause outlives restarts. Where no syncd runs, the next one
    starts paused.
    """
    _carry_out(invocation, actions.pause)
    click.echo("paused; to go on: syncd resume")
    return 0


@click.command()
@pass_invocation
def resume(invocation: Invocation) -> int:
    """End the pause that `syncd pause` began."""
    _carry_out(invocation, actions.resume)
    running = is_running(invocation.state_dir())
    click.echo(
        "going on" if running else "no longer paused; no syncd runs now: start it with syncd"
    )
    return 0


@click.command()
@paths_argument
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All files that are not in the catalog, but for those in drift.",
)
@click.option(
    "--class", "states", multiple=True, metavar="STATE",
    type=click.Choice([state.value for state in actions.RETRIABLE]),
    help=f"All files in a state that status shows: {', '.join(actions.RETRIABLE)}.",
)  # fmt: skip
@json_option
@pass_invocation
def retry(
    invocation: Invocation,
    paths: Sequence[str],
    everything: bool,
    states: Sequence[str],
    as_json: bool,
) -> int:
    """
    Try files again now, with all their attempts given back.

    PATH is a file or a folder: absolute, relative, or as `syncd status` shows it. A file that
    has failed, was cancelled or waits is queued again; one that was refused, unreadable, incomplete
    or in conflict is examined again. One in drift is sent again only if it, or its class, is named.
    What everything waits for (a hold) is probed at once, too.

    Exit code 1: some of the files named were left alone, and why.
    """
    if not (paths or everything or states):
        raise click.UsageError("Name files or folders, or give --all or --class STATE.")
    wanted = sorted(actions.ALL) if everything else states
    done = _carry_out(invocation, actions.retry, paths=_meant(invocation, paths), states=wanted)
    return _tell(done, "queued again", as_json)


@click.command()
@paths_argument
@json_option
@pass_invocation
def bump(invocation: Invocation, paths: Sequence[str], as_json: bool) -> int:
    """
    Let queued files go before all others.

    PATH is a file or a folder, as for `syncd retry`. What is being sent now is not broken
    off for it.

    Exit code 1: some of the files named were left alone, and why.
    """
    return _on_paths(invocation, actions.bump, paths, "go first", as_json)


@click.command()
@paths_argument
@json_option
@pass_invocation
def cancel(invocation: Invocation, paths: Sequence[str], as_json: bool) -> int:
    """
    Give up on files: break off what is being sent, take the rest out of the queue.

    Such a file is `cancelled` until it changes on disk or `syncd retry` names it; no restart brings
    it back. An unfinished upload is aborted. Nothing happens to the file itself, nor to what is in
    the catalog already. To leave files out for good, use select.exclude.

    Exit code 1: some of the files named were left alone, and why.
    """
    return _on_paths(invocation, actions.cancel, paths, "cancelled", as_json)


@click.command()
@click.argument("path", required=False)
@click.option(
    "--accept",
    is_flag=True,
    help="Accept the directories as they are now, after a disk was removed, replaced or emptied.",
)
@pass_invocation
def scan(invocation: Invocation, path: str | None, accept: bool) -> int:
    """
    Look at the models directories now, or at PATH only, instead of at the next hourly walk.

    Needs a running syncd: each start begins with such a walk anyway.

    If a directory, or a disk mounted below it, is missing, empty or another one than before,
    syncd waits and judges nothing. `--accept` ends that wait: files that are not there then count as
    deleted. It covers all directories, and works without a running syncd, too.
    """
    if accept and path is not None:
        raise click.UsageError("--accept covers all directories: leave PATH out.")
    if accept and not is_running(invocation.state_dir()):
        _carry_out(invocation, actions.accept)
        click.echo("accepted; the next start of syncd takes the directories as they are then")
        return 0
    state_dir = _running(invocation, "its next start looks at every file first: syncd")
    named = None if path is None else _meant(invocation, [path])[0]
    daemon_client.post(state_dir, "scan", path=named, accept=accept)
    click.echo(f"looking at {'everything' if path is None else printable(path)}; see: syncd status")
    return 0


@click.command()
@click.argument("rate", required=False)
@pass_invocation
def limit(invocation: Invocation, rate: str | None) -> int:
    """
    Limit upload bandwidth to RATE, or to `off`, within a second; without RATE, show the limit.

    RATE is `10MiB/s`, `80Mbit/s`, `512K`, or a timetable as upload.bandwidth takes it. It lasts
    until syncd is started again or reloads its configuration: to keep it, set upload.bandwidth.
    """
    if rate is None:
        return _show_limit(invocation)
    try:
        rates.parse(rate)
    except ValueError as error:
        raise click.UsageError(f"RATE {error}") from None
    state_dir = _running(invocation, "set upload.bandwidth, which its next start goes by")
    click.echo(_limited(daemon_client.post(state_dir, "limit", rate=rate)["bytes_per_second"]))
    return 0


def _show_limit(invocation: Invocation) -> int:
    state_dir = invocation.state_dir()
    if is_running(state_dir):
        click.echo(_limited(daemon_client.get(state_dir, "/status")["progress"]["bandwidth"]))
    else:
        configured = invocation.load().settings.upload.bandwidth
        click.echo(f"syncd is not running. upload.bandwidth is {configured}.")
    return 0


def _limited(bytes_per_s: int | None) -> str:
    if bytes_per_s is None:
        return "Uploads are not limited."
    return f"Uploads limited to {size_text(bytes_per_s)}/s."


# -- inside ----------------------------------------------------------------------------------------


def _on_paths(
    invocation: Invocation,
    order: Callable[..., actions.ActionResult],
    paths: Sequence[str],
    what: str,
    as_json: bool,
) -> int:
    if not paths:
        raise click.UsageError("Name one or more files or folders.")
    return _tell(_carry_out(invocation, order, paths=_meant(invocation, paths)), what, as_json)


def _carry_out(
    invocation: Invocation, order: Callable[..., actions.ActionResult], **what: Any
) -> Mapping[str, Any]:
    """By the daemon if one runs; else with the lock in hand, for the next start to find."""
    state_dir = invocation.state_dir()
    if is_running(state_dir):
        return daemon_client.post(state_dir, order.__name__, **what)
    with reading(state_dir, Report) as report:
        if report is None:
            raise NothingRuns(
                f"No syncd has worked in {printable(state_dir)} yet. If it works elsewhere, name its "
                "configuration with --config, or that directory with --state-dir."
            )
    store = Store(state_dir)
    try:
        done = order(store, time.time_ns() // 1_000_000, **what)
    finally:
        store.close()
    return {"files": done.files, "examined": done.examined, "left": done.left}


def _running(invocation: Invocation, instead: str) -> str:
    """
    The state directory of a running daemon.

    Raises:
        NothingRuns: There is none; the text says what to do *instead*.
    """
    state_dir = invocation.state_dir()
    if not is_running(state_dir):
        raise NothingRuns(f"No syncd runs on {printable(state_dir)}; {instead}")
    return state_dir


def _meant(invocation: Invocation, paths: Sequence[str]) -> list[str]:
    """
    Where what a person named lies, without a doubt.

    Raises:
        NoSuchFile: Nothing of that name is watched.
    """
    from syncd.cli.path_lookup import resolve
    from syncd.ingest.dry_run import roots_of

    try:
        settings = invocation.load().settings
        roots, _ = roots_of(settings)
        with reading(os.fspath(settings.state_dir), Report) as report:
            return [resolve(path, settings, roots, report).path for path in paths]
    except AccessDenied:  # the daemon understands names as status shows them, and absolute paths
        return [os.path.abspath(path) if os.path.lexists(path) else path for path in paths]


def _tell(done: Mapping[str, Any], what: str, as_json: bool) -> int:
    files, examined, left = done["files"], done.get("examined", []), done["left"]
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return SOME_LEFT if left else 0
    for said, paths in ((what, files), ("to be examined again", examined)):
        for path in paths[:LISTED]:
            click.echo(f"{said}: {path}")
        if len(paths) > LISTED:
            click.echo(f"… and {len(paths) - LISTED} more")
    for path, reason in left.items():
        click.echo(f"left alone: {printable(path)}: {reason}", err=True)
    if not files and not examined and not left:
        click.echo("no file is in such a state; nothing was changed")
    return SOME_LEFT if left else 0
