"""``syncd doctor``: checks everything that syncd needs, and says what to do about problems."""

import asyncio
import dataclasses
import json
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException
from urllib.parse import urlsplit

import click

from syncd.cli import tables
from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.tables import Table, state_cell
from syncd.cloud.credentials import ends_at_s
from syncd.config.loader import Loaded, require_known_types
from syncd.config.locations import closing, writers_of
from syncd.config.settings import Settings
from syncd.core.catalog.permissions import WRITERS, describe_permissions, team_of
from syncd.core.catalog.plan import Action
from syncd.errors import ConfigError, JobError, RootUnavailable, StateError
from syncd.fs import mounts, watcher
from syncd.ingest.dry_run import Planned, make_plan, roots_of
from syncd.types import Profile, Session, printable

SCHEMA = 1
"""Version of the ``--json`` output; see docs/schemas/doctor.schema.json."""

SKEW_WARNED_S, SKEW_MOST_S = 60.0, 300.0
"""Object stores refuse signatures if the clock is off by 15 minutes."""

ROOM_WANTED = 256 * 1024 * 1024
"""Free bytes for the database, its log, and a cleanup."""

COMFYUI_S, ANSWER_MAX = 5.0, 64 * 1024

LIFE_WARNED_S = 86_400.0

WATCHES_LEFT = 0.8
"""Share of the system's inotify watches that syncd should use; other programs need some too."""

_UNABLE = (Action.REFUSED, Action.CONFLICT)


class Result(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One check; ``code`` is the exit code of syncd if it failed."""

    name: str
    result: Result
    found: str
    advice: str | None = None
    code: int = 0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@click.option("--offline", is_flag=True, help="Do not ask the cloud.")
@pass_invocation
def doctor(invocation: Invocation, as_json: bool, offline: bool) -> int:
    """
    Check everything that syncd needs: credential, cloud, clock, disks, limits, names.

    Sends one API request and writes nothing. The exit code is 0, or that of syncd for the first
    check that failed.
    """
    loaded = invocation.load()
    checks = list(local_checks(loaded))
    if not offline:
        checks += asyncio.run(cloud_checks(loaded))
    code = next((check.code for check in checks if check.result is Result.FAILED), 0)
    if as_json:
        click.echo(json.dumps(_document(checks, code), indent=2))
    else:
        _show(checks)
    return code


def _document(checks: Sequence[Check], code: int) -> dict[str, object]:
    """The ``--json`` output (docs/schemas)."""
    return {"schema": SCHEMA, "checks": list(map(as_dict, checks)), "exit_code": code}


def as_dict(check: Check) -> dict[str, object]:
    """Return a check as in the ``--json`` output."""
    members = dataclasses.asdict(check)
    del members["code"]
    return members


def _show(checks: Sequence[Check]) -> None:
    rows = []
    for check in checks:
        text = ". ".join(part.rstrip(".") for part in (check.found, check.advice) if part)
        rows.append((check.name, state_cell(check.result), text))
    tables.show([Table(None, ("check", "result", "details and advice"), rows)])


def local_checks(loaded: Loaded) -> Iterator[Check]:
    """Check this machine; nothing is written and the cloud is not contacted."""
    yield _configuration(loaded)
    yield _credential(loaded)
    yield _proxy(loaded.settings)
    yield _certificates(loaded.settings)
    yield from _trees(loaded.settings)
    yield from _state(os.fspath(loaded.settings.state_dir))
    yield _watches(loaded.settings)
    yield _names(loaded)
    yield _comfyui(loaded.settings.comfyui.url)


async def cloud_checks(loaded: Loaded) -> list[Check]:
    """Check the cloud with one request, ``GET /users/me``."""
    from syncd.cli.cloud_session import exit_of, reaching

    host = loaded.settings.api.base_url
    if loaded.credential.current() is None:
        return [Check("cloud", Result.SKIPPED, "not checked: there is no credential")]
    async with reaching(loaded) as api:
        try:
            me = await api.me()
        except JobError as error:
            found = f"{host}: {error}"
            failed = Check("cloud", Result.FAILED, found, error.advice, exit_of(error))
            return [failed, *_clock(api.clock_skew_s)]
        answered = Check("cloud", Result.OK, f"{host} answers and accepts the credential")
        return [answered, _team(loaded, me), *_clock(api.clock_skew_s)]


# -- configuration and account ---------------------------------------------------------------------


def _configuration(loaded: Loaded) -> Check:
    where = printable(str(loaded.config_file)) if loaded.config_file else "no configuration file"
    try:
        require_known_types(loaded)
    except ConfigError as error:
        return Check("configuration", Result.FAILED, str(error), code=error.exit_code)
    return Check("configuration", Result.OK, f"{where}: valid")


def _credential(loaded: Loaded) -> Check:
    token, origin = loaded.credential.read()
    if token is None:
        advice = (
            "Sign in: syncd login. Or name a file with a device key (dk-...) in api.token_file."
        )
        return Check("credential", Result.FAILED, "none", advice, 77)
    if isinstance(loaded.credential.current(), Session):
        return Check("credential", Result.OK, f"session from {origin}; renewed automatically")
    ends_s = ends_at_s(token.get_secret_value())
    if ends_s is None:
        kind = "device key" if token.get_secret_value().startswith("dk-") else "session token"
        return Check("credential", Result.OK, f"{kind} from {origin}; does not expire")
    left_s = ends_s - time.time()
    found = f"session token from {origin}, {_span(left_s)}"
    if left_s <= 0:
        return Check("credential", Result.FAILED, found, "Sign in: syncd login --large-files", 77)
    if left_s < LIFE_WARNED_S:
        advice = "For a session that is renewed automatically: syncd login --large-files"
        return Check("credential", Result.WARNING, found, advice)
    return Check("credential", Result.OK, found)


def _span(left_s: float) -> str:
    hours = abs(left_s) / 3600
    length = f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"
    return f"expires in {length}" if left_s > 0 else f"expired {length} ago"


def _team(loaded: Loaded, me: Profile) -> Check:
    current = loaded.credential.current()
    team_id = current.team_id if isinstance(current, Session) else loaded.settings.api.team_id
    team, who = team_of(me, team_id), printable(me.email or me.name)
    if team_id is not None and team is None:
        ids = ", ".join(printable(each.id) for each in me.teams) or "none"
        advice = f"Set api.team_id to one of your teams: {ids}."
        return Check("role", Result.FAILED, f"{who} is not in the team {team_id}", advice, 77)
    permissions = printable(describe_permissions(me, team_id))
    text = f"{who}, team {printable(team.name) if team else 'unknown'}: {permissions}"
    if team is not None and team.role is not None and team.role.lower() not in WRITERS:
        advice = (
            "Ask an owner of the team for the role admin. Until then the cloud refuses all uploads."
        )
        return Check("role", Result.WARNING, text, advice)
    return Check("role", Result.OK, text)


def _clock(skew_s: float | None) -> Iterator[Check]:
    if skew_s is None:
        yield Check("clock", Result.SKIPPED, "the cloud sent no time")
        return
    found = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the cloud's"
    advice = "Turn on time synchronization: timedatectl set-ntp true"
    if abs(skew_s) > SKEW_MOST_S:
        yield Check("clock", Result.FAILED, found, advice, 77)
    elif abs(skew_s) > SKEW_WARNED_S:
        yield Check("clock", Result.WARNING, found, advice)
    else:
        yield Check("clock", Result.OK, "agrees with the cloud's within a minute")


# -- network ---------------------------------------------------------------------------------------


def _proxy(settings: Settings) -> Check:
    api = urlsplit(settings.api.base_url)
    if settings.api.loopback:
        return Check("proxy", Result.OK, "none: base_url is on this machine")
    if settings.network.proxy is not None:
        return Check("proxy", Result.OK, _place(settings.network.proxy.get_secret_value()))
    proxies = urllib.request.getproxies()
    proxy = proxies.get(api.scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(api.netloc):
        return Check("proxy", Result.OK, "none")
    return Check("proxy", Result.OK, f"{_place(proxy)} (from the environment)")


def _place(url: str) -> str:
    """Return the address of a proxy without user and password."""
    host = url.rpartition("@")[2].rpartition("://")[2].partition("/")[0]
    scheme = url.partition("://")[0] if "://" in url else "http"  # as httpx takes it
    return printable(f"{scheme}://{host}")


def _certificates(settings: Settings) -> Check:
    bundle = settings.network.ca_bundle
    more = "" if bundle is None else f", and {printable(str(bundle))}"
    return Check("certificates", Result.OK, f"the system's{more}")


# -- this machine ----------------------------------------------------------------------------------


def _trees(settings: Settings) -> Iterator[Check]:
    roots, _ = roots_of(settings)
    for root in roots.values():
        shown = printable(root.path)
        if not os.path.isdir(root.path):
            advice = "Check models_dir, the mount, and the permissions of the account."
            if root.type_key is None:
                yield Check("tree", Result.FAILED, f"{shown}: does not exist", advice, 66)
            else:
                yield Check(
                    "tree", Result.WARNING, f"{shown}: does not exist (ComfyUI accepts that)"
                )
            continue
        kind = mounts.mount_of(root.path).fs_type
        if mounts.network_filesystem(root.path) is None:
            yield Check("tree", Result.OK, f"{shown}: {kind}")
        else:
            seconds = f"{settings.scan.interval_s:.0f}"
            yield Check(
                "tree",
                Result.WARNING,
                f"{shown}: {kind}, which does not report changes by other hosts",
                f"The scan every {seconds} s finds them (scan.interval_s).",
            )


def _state(state_dir: str) -> Iterator[Check]:
    shown, there = printable(state_dir), _nearest(state_dir)
    kind = mounts.network_filesystem(state_dir)
    if kind is not None:
        advice = "Set state_dir to a directory on a local disk: databases can break on network file systems."
        yield Check("state directory", Result.FAILED, f"{shown}: on {kind}", advice, 74)
    elif there == state_dir and (writers := writers_of(os.stat(there))) is not None:
        found = f"{shown}: is writable by {writers}"
        yield Check("state directory", Result.FAILED, found, closing(state_dir), 74)
    elif not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        advice = f"Let the account of syncd (uid {os.geteuid()}) write there, or set state_dir."
        yield Check("state directory", Result.FAILED, f"{shown}: not writable", advice, 74)
    else:
        kind = mounts.mount_of(state_dir).fs_type
        made = "" if there == state_dir else ", created at the first start"
        yield Check("state directory", Result.OK, f"{shown}: {kind}{made}")
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    room = f"{free // (1024 * 1024)} MiB free for the database"
    if free < ROOM_WANTED:
        yield Check("disk space", Result.WARNING, room, "Free some space on the disk of state_dir.")
    else:
        yield Check("disk space", Result.OK, room)


def _nearest(path: str) -> str:
    """Return *path* or its nearest parent that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _watches(settings: Settings) -> Check:
    limit = watcher.watches_max()
    if limit is None:
        return Check("watches", Result.SKIPPED, "/proc does not show the limit")
    roots, _ = roots_of(settings)
    folders = sum(watcher.folders_at(root.path) for root in roots.values())
    found = f"{folders} folders to watch; the system allows {limit}"
    if folders > limit * WATCHES_LEFT:
        advice = f"sysctl -w fs.inotify.max_user_watches={max(4 * folders, 524_288)}"
        return Check(
            "watches",
            Result.WARNING,
            found,
            f"Scans find the other changes. To raise it: {advice}",
        )
    return Check("watches", Result.OK, found)


def _names(loaded: Loaded) -> Check:
    try:
        planned = make_plan(loaded)
    except (ConfigError, RootUnavailable, StateError) as error:
        return Check("names", Result.FAILED, str(error), code=error.exit_code)
    counts = Counter(step.action for step in planned.steps)
    unable = [step for step in planned.steps if step.action in _UNABLE]
    if not unable:
        return Check("names", Result.OK, f"{_models(planned)} models; all names can be registered")
    first = printable(planned.roots[unable[0].root_id].display_path(unable[0].rel_path))
    return Check(
        "names",
        Result.WARNING,
        f"{counts[Action.REFUSED]} would be refused, {counts[Action.CONFLICT]} conflict with another; "
        f"for example {first}",
        "syncd plan lists them with the line for [naming.map] that fixes each.",
    )


def _models(planned: Planned) -> int:
    return sum(step.action is not Action.IGNORED for step in planned.steps)


def _comfyui(url: str | None) -> Check:
    if url is None:
        return Check("comfyui", Result.SKIPPED, "not checked: comfyui.url is not set")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/prompt", timeout=COMFYUI_S) as answer:
            queued = int(json.loads(answer.read(ANSWER_MAX))["exec_info"]["queue_remaining"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        found = f"{printable(url)} does not report its queue: {printable(str(error))}"
        advice = (
            "Check comfyui.url and that ComfyUI is running. Until then syncd treats it as not busy."
        )
        return Check("comfyui", Result.WARNING, found, advice)
    return Check("comfyui", Result.OK, f"{printable(url)}: queue length {queued}")
