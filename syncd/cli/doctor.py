"""``syncd doctor``: checks everything that syncd needs, and says what to do about problems."""

import asyncio
import dataclasses
import json
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException
from urllib.parse import urlsplit

import click

from syncd.cli import tables
from syncd.cli.main import Invocation, json_option, pass_invocation, print_json
from syncd.cli.tables import Table, state_cell
from syncd.cloud.credentials import ends_at_s
from syncd.config.loader import Loaded, require_known_types
from syncd.config.locations import closing, writers_of
from syncd.config.settings import Settings
from syncd.core.catalog.permissions import WRITERS, describe_permissions, team_of
from syncd.core.catalog.plan import Action
from syncd.errors import ConfigError, JobError, RootUnavailable, StateError
from syncd.fs import mounts, watcher
from syncd.ingest.comparer import Root
from syncd.ingest.dry_run import make_plan, roots_of
from syncd.types import Profile, Session, printable

SKEW_WARNED_S, SKEW_MOST_S = 60.0, 300.0  # object stores refuse signatures after 15 minutes
ROOM_WANTED = 256 * 1024 * 1024  # free bytes for the database, its log, and a cleanup
COMFYUI_S, ANSWER_MAX = 5.0, 64 * 1024
LIFE_WARNED_S = 86_400.0
WATCHES_LEFT = 0.8  # share of the system's inotify watches; other programs need some too


class Result(StrEnum):
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
@json_option
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
        print_json({"checks": list(map(as_dict, checks)), "exit_code": code})
    else:
        rows = []
        for check in checks:
            text = ". ".join(part.rstrip(".") for part in (check.found, check.advice) if part)
            rows.append((check.name, state_cell(check.result), text))
        tables.show([Table(None, ("check", "result", "details and advice"), rows)])
    return code


def as_dict(check: Check) -> dict[str, object]:
    """Return a check as in the ``--json`` output."""
    members = dataclasses.asdict(check)
    del members["code"]
    return members


def local_checks(loaded: Loaded) -> Iterator[Check]:
    """Check this machine; nothing is written and the cloud is not contacted."""
    settings = loaded.settings
    yield _configuration(loaded)
    yield _credential(loaded)
    yield Check("proxy", Result.OK, _proxy(settings))
    yield from (_tree(settings, root) for root in roots_of(settings)[0].values())
    yield _state(os.fspath(settings.state_dir))
    yield _disk_space(os.fspath(settings.state_dir))
    yield _watches(settings)
    yield _names(loaded)
    yield _comfyui(settings.comfyui.url)


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
            return [failed, _clock(api.clock_skew_s)]
        answered = Check("cloud", Result.OK, f"{host} answers and accepts the credential")
        return [answered, _team(loaded, me), _clock(api.clock_skew_s)]


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
        advice = "Sign in: syncd login. Or set api.token_file to a file with a device key (dk-...)."
        return Check("credential", Result.FAILED, "none", advice, 77)
    if isinstance(loaded.credential.current(), Session):
        return Check("credential", Result.OK, f"session from {origin}; renewed automatically")
    ends_s = ends_at_s(token.get_secret_value())
    if ends_s is None:
        kind = "device key" if token.get_secret_value().startswith("dk-") else "session token"
        return Check("credential", Result.OK, f"{kind} from {origin}; does not expire")
    left_s = ends_s - time.time()
    hours = f"{abs(left_s) / 3600:.1f} hours"
    if left_s <= 0:
        found, advice = f"expired {hours} ago", "Sign in: syncd login --large-files"
        return Check(
            "credential", Result.FAILED, f"session token from {origin}, {found}", advice, 77
        )
    found = f"session token from {origin}, expires in {hours}"
    if left_s < LIFE_WARNED_S:
        advice = "For a session that is renewed automatically: syncd login --large-files"
        return Check("credential", Result.WARNING, found, advice)
    return Check("credential", Result.OK, found)


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
        advice = "Ask an owner of the team for the role admin. Until then no upload is accepted."
        return Check("role", Result.WARNING, text, advice)
    return Check("role", Result.OK, text)


def _clock(skew_s: float | None) -> Check:
    if skew_s is None:
        return Check("clock", Result.SKIPPED, "the cloud sent no time")
    if abs(skew_s) <= SKEW_WARNED_S:
        return Check("clock", Result.OK, "agrees with the cloud's within a minute")
    found = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the cloud's"
    advice = "Turn on time synchronization: timedatectl set-ntp true"
    if abs(skew_s) > SKEW_MOST_S:
        return Check("clock", Result.FAILED, found, advice, 77)
    return Check("clock", Result.WARNING, found, advice)


def _proxy(settings: Settings) -> str:
    api = urlsplit(settings.api.base_url)
    if settings.api.loopback:
        return "none: base_url is on this machine"
    if settings.network.proxy is not None:
        return _without_user(settings.network.proxy.get_secret_value())
    proxies = urllib.request.getproxies()
    proxy = proxies.get(api.scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(api.netloc):
        return "none"
    return f"{_without_user(proxy)} (from the environment)"


def _without_user(url: str) -> str:
    host = url.rpartition("@")[2].rpartition("://")[2].partition("/")[0]
    scheme = url.partition("://")[0] if "://" in url else "http"  # the default of httpx
    return printable(f"{scheme}://{host}")


def _tree(settings: Settings, root: Root) -> Check:
    shown = printable(root.path)
    if not os.path.isdir(root.path):
        if root.type_key is not None:
            found = f"{shown}: does not exist (ComfyUI accepts that)"
            return Check("tree", Result.WARNING, found)
        advice = "Check models_dir, the mount, and the permissions of the account."
        return Check("tree", Result.FAILED, f"{shown}: does not exist", advice, 66)
    kind = mounts.mount_of(root.path).fs_type
    if mounts.network_filesystem(root.path) is None:
        return Check("tree", Result.OK, f"{shown}: {kind}")
    found = f"{shown}: {kind}, which does not report changes by other hosts"
    advice = f"The scan every {settings.scan.interval_s:.0f} s finds them (scan.interval_s)."
    return Check("tree", Result.WARNING, found, advice)


def _state(state_dir: str) -> Check:
    shown, there = printable(state_dir), _nearest(state_dir)
    kind = mounts.network_filesystem(state_dir)
    if kind is not None:
        found, advice = f"{shown}: on {kind}", "Set state_dir to a directory on a local disk."
    elif there == state_dir and (writers := writers_of(os.stat(there))) is not None:
        found, advice = f"{shown}: is writable by {writers}", closing(state_dir)
    elif not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        found = f"{shown}: not writable"
        advice = f"Let the account of syncd (uid {os.geteuid()}) write there, or set state_dir."
    else:
        made = "" if there == state_dir else ", created at the first start"
        found = f"{shown}: {mounts.mount_of(state_dir).fs_type}{made}"
        return Check("state directory", Result.OK, found)
    return Check("state directory", Result.FAILED, found, advice, 74)


def _disk_space(state_dir: str) -> Check:
    disk = os.statvfs(_nearest(state_dir))
    free = disk.f_bavail * disk.f_frsize
    found = f"{free // (1024 * 1024)} MiB free for the database"
    if free >= ROOM_WANTED:
        return Check("disk space", Result.OK, found)
    return Check("disk space", Result.WARNING, found, "Free some space on the disk of state_dir.")


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
    if folders <= limit * WATCHES_LEFT:
        return Check("watches", Result.OK, found)
    command = f"sysctl -w fs.inotify.max_user_watches={max(4 * folders, 524_288)}"
    advice = f"Scans find the other changes. To raise it: {command}"
    return Check("watches", Result.WARNING, found, advice)


def _names(loaded: Loaded) -> Check:
    try:
        planned = make_plan(loaded)
    except (ConfigError, RootUnavailable, StateError) as error:
        return Check("names", Result.FAILED, str(error), code=error.exit_code)
    counts = Counter(step.action for step in planned.steps)
    unable = [s for s in planned.steps if s.action in (Action.REFUSED, Action.CONFLICT)]
    if not unable:
        models = counts.total() - counts[Action.IGNORED]
        return Check("names", Result.OK, f"{models} models; all names can be registered")
    first = printable(planned.roots[unable[0].root_id].display_path(unable[0].rel_path))
    found = (
        f"{counts[Action.REFUSED]} would be refused, {counts[Action.CONFLICT]} conflict with another; "
        f"for example {first}"
    )
    advice = "syncd plan lists them with the line for [naming.map] that fixes each."
    return Check("names", Result.WARNING, found, advice)


def _comfyui(url: str | None) -> Check:
    if url is None:
        return Check("comfyui", Result.SKIPPED, "not checked: comfyui.url is not set")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/prompt", timeout=COMFYUI_S) as answer:
            queued = int(json.loads(answer.read(ANSWER_MAX))["exec_info"]["queue_remaining"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        found = f"{printable(url)} does not report its queue: {printable(str(error))}"
        advice = "Check comfyui.url and that ComfyUI is running. syncd treats it as not busy."
        return Check("comfyui", Result.WARNING, found, advice)
    return Check("comfyui", Result.OK, f"{printable(url)}: queue length {queued}")
