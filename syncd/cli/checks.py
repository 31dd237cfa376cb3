"""What ``syncd doctor`` looks at: each check says what it found and, where that is wrong, what helps."""

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

SKEW_WARNED_S, SKEW_MOST_S = 60.0, 300.0
"""An object store refuses signatures of a clock that is a quarter of an hour off."""

ROOM_WANTED = 256 * 1024 * 1024
"""Bytes free for the database: its log, and as much again while it is cleaned up."""

COMFYUI_S, ANSWER_MAX = 5.0, 64 * 1024

LIFE_WARNED_S = 86_400.0

WATCHES_LEFT = 0.8
"""Share of the system's watches that the folders of the trees should not exceed: others need some."""

_UNABLE = (Action.REFUSED, Action.CONFLICT)


class Result(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One look; ``code`` is what syncd would end with for it."""

    name: str
    result: Result
    found: str
    advice: str | None = None
    code: int = 0


def local_checks(loaded: Loaded) -> Iterator[Check]:
    """Everything on this machine; the cloud is not asked and nothing is written."""
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
    """What the cloud says of us: one request, ``GET /users/me``."""
    from syncd.cli.cloud_session import exit_of, reaching

    host = loaded.settings.api.base_url
    if loaded.credential.current() is None:
        return [Check("cloud", Result.SKIPPED, "not asked: there is no credential")]
    async with reaching(loaded) as api:
        try:
            me = await api.me()
        except JobError as error:
            found = f"{host}: {error}"
            failed = Check("cloud", Result.FAILED, found, error.advice, exit_of(error))
            return [failed, *_clock(api.clock_skew_s)]
        answered = Check("cloud", Result.OK, f"{host} answers, and takes the credential")
        return [answered, _team(loaded, me), *_clock(api.clock_skew_s)]


# -- who we are ------------------------------------------------------------------------------------


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
        return Check("credential", Result.OK, f"session from {origin}; it renews itself")
    ends_s = ends_at_s(token.get_secret_value())
    if ends_s is None:
        kind = "device key" if token.get_secret_value().startswith("dk-") else "session token"
        return Check("credential", Result.OK, f"{kind} from {origin}; it names no end of its life")
    left_s = ends_s - time.time()
    found = f"session token from {origin}, {_span(left_s)}"
    if left_s <= 0:
        return Check("credential", Result.FAILED, found, "Sign in: syncd login --large-files", 77)
    if left_s < LIFE_WARNED_S:
        advice = "syncd login --large-files gets a session that renews itself."
        return Check("credential", Result.WARNING, found, advice)
    return Check("credential", Result.OK, found)


def _span(left_s: float) -> str:
    hours = abs(left_s) / 3600
    length = f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"
    return f"good for another {length}" if left_s > 0 else f"ended {length} ago"


def _team(loaded: Loaded, me: Profile) -> Check:
    current = loaded.credential.current()
    team_id = current.team_id if isinstance(current, Session) else loaded.settings.api.team_id
    team, who = team_of(me, team_id), printable(me.email or me.name)
    if team_id is not None and team is None:
        ids = ", ".join(printable(each.id) for each in me.teams) or "none"
        advice = f"Set api.team_id to one of your teams: {ids}."
        return Check("role", Result.FAILED, f"{who} is not in the team {team_id}", advice, 77)
    permissions = printable(describe_permissions(me, team_id))
    told = f"{who}, team {printable(team.name) if team else 'unknown'}: {permissions}"
    if team is not None and team.role is not None and team.role.lower() not in WRITERS:
        advice = "Ask an owner of the team for the role admin; until then every upload is refused."
        return Check("role", Result.WARNING, told, advice)
    return Check("role", Result.OK, told)


def _clock(skew_s: float | None) -> Iterator[Check]:
    if skew_s is None:
        yield Check("clock", Result.SKIPPED, "the cloud told no time")
        return
    found = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the cloud's"
    advice = "Let this machine keep its time: timedatectl set-ntp true."
    if abs(skew_s) > SKEW_MOST_S:
        yield Check("clock", Result.FAILED, found, advice, 77)
    elif abs(skew_s) > SKEW_WARNED_S:
        yield Check("clock", Result.WARNING, found, advice)
    else:
        yield Check("clock", Result.OK, "agrees with the cloud's within a minute")


# -- the way out -----------------------------------------------------------------------------------


def _proxy(settings: Settings) -> Check:
    api = urlsplit(settings.api.base_url)
    if settings.api.loopback:
        return Check("proxy", Result.OK, "none: this machine itself is never reached through one")
    if settings.network.proxy is not None:
        return Check("proxy", Result.OK, _place(settings.network.proxy.get_secret_value()))
    proxies = urllib.request.getproxies()
    proxy = proxies.get(api.scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(api.netloc):
        return Check("proxy", Result.OK, "none")
    return Check("proxy", Result.OK, f"{_place(proxy)} (from the environment)")


def _place(url: str) -> str:
    """Where a proxy is, without its user and password."""
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
                yield Check("tree", Result.FAILED, f"{shown}: not there", advice, 66)
            else:
                yield Check("tree", Result.WARNING, f"{shown}: not there, as ComfyUI puts up with")
            continue
        kind = mounts.mount_of(root.path).fs_type
        if mounts.network_filesystem(root.path) is None:
            yield Check("tree", Result.OK, f"{shown}: {kind}")
        else:
            seconds = f"{settings.scan.interval_s:.0f}"
            yield Check(
                "tree",
                Result.WARNING,
                f"{shown}: {kind}, where changes by other hosts come without a word",
                f"They are found by the walk every {seconds} s (scan.interval_s).",
            )


def _state(state_dir: str) -> Iterator[Check]:
    shown, there = printable(state_dir), _nearest(state_dir)
    kind = mounts.network_filesystem(state_dir)
    if kind is not None:
        advice = "Set state_dir to a directory on a local disk: databases break on network ones."
        yield Check("state directory", Result.FAILED, f"{shown}: on {kind}", advice, 74)
    elif there == state_dir and (writers := writers_of(os.stat(there))) is not None:
        found = f"{shown}: is writable by {writers}"
        yield Check("state directory", Result.FAILED, found, closing(state_dir), 74)
    elif not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        advice = f"Let the account of syncd (uid {os.geteuid()}) write there, or set state_dir."
        yield Check("state directory", Result.FAILED, f"{shown}: not writable", advice, 74)
    else:
        kind = mounts.mount_of(state_dir).fs_type
        made = "" if there == state_dir else ", made at the first start"
        yield Check("state directory", Result.OK, f"{shown}: {kind}{made}")
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    room = f"{free // (1024 * 1024)} MiB free for the database"
    if free < ROOM_WANTED:
        yield Check("disk room", Result.WARNING, room, "Make room on the disk of state_dir.")
    else:
        yield Check("disk room", Result.OK, room)


def _nearest(path: str) -> str:
    """*path*, or the folder above it that is there."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _watches(settings: Settings) -> Check:
    limit = watcher.watches_max()
    if limit is None:
        return Check("watches", Result.SKIPPED, "/proc does not tell the limit")
    roots, _ = roots_of(settings)
    folders = sum(watcher.folders_at(root.path) for root in roots.values())
    found = f"{folders} folders to watch, the system allows {limit}"
    if folders > limit * WATCHES_LEFT:
        advice = f"sysctl -w fs.inotify.max_user_watches={max(4 * folders, 524_288)}"
        return Check("watches", Result.WARNING, found, f"Until then walks find the rest: {advice}")
    return Check("watches", Result.OK, found)


def _names(loaded: Loaded) -> Check:
    try:
        planned = make_plan(loaded)
    except (ConfigError, RootUnavailable, StateError) as error:
        return Check("names", Result.FAILED, str(error), code=error.exit_code)
    counts = Counter(step.action for step in planned.steps)
    unable = [step for step in planned.steps if step.action in _UNABLE]
    if not unable:
        return Check("names", Result.OK, f"{_models(planned)} models, each name can be registered")
    first = printable(planned.roots[unable[0].root_id].display_path(unable[0].rel_path))
    return Check(
        "names",
        Result.WARNING,
        f"{counts[Action.REFUSED]} would be refused, {counts[Action.CONFLICT]} are in conflict; "
        f"for example {first}",
        "syncd plan lists them, each with the line under [naming.map] that helps.",
    )


def _models(planned: Planned) -> int:
    return sum(step.action is not Action.IGNORED for step in planned.steps)


def _comfyui(url: str | None) -> Check:
    if url is None:
        return Check("comfyui", Result.SKIPPED, "comfyui.url is not set: it is not asked")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/prompt", timeout=COMFYUI_S) as answer:
            queued = int(json.loads(answer.read(ANSWER_MAX))["exec_info"]["queue_remaining"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        found = f"{printable(url)} does not tell its queue: {printable(str(error))}"
        advice = "Check comfyui.url and that ComfyUI runs; meanwhile it counts as not busy."
        return Check("comfyui", Result.WARNING, found, advice)
    return Check("comfyui", Result.OK, f"{printable(url)}: {queued} in its queue")
