"""Commands that control syncd: through the running daemon, otherwise directly in the database."""

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
"""Files that are listed one by one."""


class NothingRuns(SyncdError):
    """The command needs a running daemon, or a database that a daemon created."""

    exit_code = 75


paths_argument = click.argument("paths", nargs=-1, metavar="[PATH]...")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.command()
@pass_invocation
def pause(invocation: Invocation) -> int:
    """
    Stop uploading until `syncd resume`.

    Running requests finish, and finished parts are kept; no other request starts. Changed files are
    still queued. The pause survives restarts. If syncd is not running, it starts paused.
    """
    _carry_out(invocation, actions.pause)
    click.echo("paused; to continue: syncd resume")
    return 0


@click.command()
@pass_invocation
def resume(invocation: Invocation) -> int:
    """Resume uploading after `syncd pause`."""
    _carry_out(invocation, actions.resume)
    running = is_running(invocation.state_dir())
    click.echo("resumed" if running else "no longer paused; syncd is not running: start it")
    return 0


@click.command()
@paths_argument
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All files that are not in the catalog, except those in state drift.",
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
    Retry files now and reset their attempts.

    PATH is a file or a folder: absolute, relative, or as shown by `syncd status`. A file that
    failed, was cancelled or is waiting is queued again. A file that was refused, unreadable,
    incomplete or in conflict is checked again. A file in state drift is uploaded again only if its
    PATH or --class drift is given. Each hold (a condition that makes all uploads wait) is checked
    again at once.

    Exit code 1: some of the given files were skipped; the output says why.
    """
    if not (paths or everything or states):
        raise click.UsageError("Name files or folders, or give --all or --class STATE.")
    wanted = sorted(actions.ALL) if everything else states
    return _on_paths(invocation, actions.retry, paths, "queued again", as_json, states=wanted)


@click.command()
@paths_argument
@json_option
@pass_invocation
def bump(invocation: Invocation, paths: Sequence[str], as_json: bool) -> int:
    """
    Move queued files to the front of the queue.

    PATH is a file or a folder, as for `syncd retry`. Running uploads are not interrupted.

    Exit code 1: some of the given files were skipped; the output says why.
    """
    _require_paths(paths)
    return _on_paths(invocation, actions.bump, paths, "go first", as_json)


@click.command()
@paths_argument
@json_option
@pass_invocation
def cancel(invocation: Invocation, paths: Sequence[str], as_json: bool) -> int:
    """
    Stop uploading files and remove them from the queue.

    The files stay `cancelled`, also after a restart, until they change on disk or are named in
    `syncd retry`. Unfinished uploads are aborted. The files themselves and records in the catalog
    are not changed. To exclude files permanently, use select.exclude.

    Exit code 1: some of the given files were skipped; the output says why.
    """
    _require_paths(paths)
    return _on_paths(invocation, actions.cancel, paths, "cancelled", as_json)


@click.command()
@click.argument("path", required=False)
@click.option(
    "--accept", is_flag=True,
    help="Accept the directories as they are now, after a disk was removed, replaced or emptied.",
)  # fmt: skip
@pass_invocation
def scan(invocation: Invocation, path: str | None, accept: bool) -> int:
    """
    Scan the models directories, or only PATH, now instead of at the next regular scan.

    Needs a running syncd, which also scans when it starts.

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
    state_dir = _running(invocation, "it scans all files when it starts: syncd")
    named = None if path is None else _meant(invocation, [path])[0]
    daemon_client.post(state_dir, "scan", path=named, accept=accept)
    click.echo(f"scanning {'all files' if path is None else printable(path)}; see: syncd status")
    return 0


@click.command()
@click.argument("rate", required=False)
@pass_invocation
def limit(invocation: Invocation, rate: str | None) -> int:
    """
    Limit upload bandwidth to RATE, or to `off`; without RATE, show the limit.

    RATE is `10MiB/s`, `80Mbit/s`, `512K`, or a timetable as in upload.bandwidth. It applies until
    syncd restarts or reloads its configuration; to keep it, set upload.bandwidth.
    """
    if rate is not None:
        try:
            rates.parse(rate)
        except ValueError as error:
            raise click.UsageError(f"RATE {error}") from None
        state_dir = _running(invocation, "set upload.bandwidth, which applies at the next start")
        now = daemon_client.post(state_dir, "limit", rate=rate)["bytes_per_second"]
    elif is_running(state_dir := invocation.state_dir()):
        now = daemon_client.get(state_dir, "/status")["progress"]["bandwidth"]
    else:
        configured = invocation.load().settings.upload.bandwidth
        click.echo(f"syncd is not running. upload.bandwidth is {configured}.")
        return 0
    limited = "are not limited" if now is None else f"limited to {size_text(now)}/s"
    click.echo(f"Uploads {limited}.")
    return 0


def _require_paths(paths: Sequence[str]) -> None:
    if not paths:
        raise click.UsageError("Name one or more files or folders.")


def _carry_out(
    invocation: Invocation, order: Callable[..., actions.ActionResult], **what: Any
) -> Mapping[str, Any]:
    """Run an action in the daemon, or without one, in the database while holding its lock."""
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
    """Return the state directory of the running daemon, or raise ``NothingRuns``."""
    state_dir = invocation.state_dir()
    if not is_running(state_dir):
        raise NothingRuns(f"syncd is not running on {printable(state_dir)}; {instead}")
    return state_dir


def _meant(invocation: Invocation, paths: Sequence[str]) -> list[str]:
    """Resolve the given names to absolute paths. Raises ``NoSuchFile``."""
    from syncd.cli.path_lookup import resolve
    from syncd.ingest.dry_run import roots_of

    try:
        settings = invocation.load().settings
        roots, _ = roots_of(settings)
        with reading(os.fspath(settings.state_dir), Report) as report:
            return [resolve(path, settings, roots, report).path for path in paths]
    except AccessDenied:  # the daemon understands names as status shows them, and absolute paths
        return [os.path.abspath(path) if os.path.lexists(path) else path for path in paths]


def _on_paths(
    invocation: Invocation,
    order: Callable[..., actions.ActionResult],
    paths: Sequence[str],
    what: str,
    as_json: bool,
    **more: Any,
) -> int:
    done = _carry_out(invocation, order, paths=_meant(invocation, paths), **more)
    files, examined, left = done["files"], done.get("examined", []), done["left"]
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return 1 if left else 0
    for text, listed in ((what, files), ("to be examined again", examined)):
        for path in listed[:LISTED]:
            click.echo(f"{text}: {path}")
        if len(listed) > LISTED:
            click.echo(f"… and {len(listed) - LISTED} more")
    for path, reason in left.items():
        click.echo(f"left alone: {printable(path)}: {reason}", err=True)
    if not files and not examined and not left:
        click.echo("no file is in such a state; nothing was changed")
    return 1 if left else 0
