"""
``syncd support-bundle``: what somebody needs who helps, in one file, without secrets.

Names of models say what a team works on, so they are left out unless they are asked for: each is
replaced by a keyed digest whose key dies with the command. The same name is the same digest within
a bundle and says nothing beyond it. Free text about a file may quote names, so it goes with them.
"""

import hashlib
import io
import json
import os
import platform
import secrets
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import click

from syncd import __version__
from syncd.cli.checks import local_checks
from syncd.cli.doctor import as_dict
from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.reading import read_files
from syncd.config.loader import Loaded
from syncd.config.settings import KEYS, shown
from syncd.errors import SyncdError
from syncd.fs import mounts
from syncd.monitoring import log
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import printable

Hide = Callable[[str, str | None], str]
"""What is shown for a path below a root, and the root's type."""

EVENTS_MOST = 2000
SINCE_MS = 14 * 86_400_000

_NAMING = ("naming.map", "select.include", "select.exclude")
"""Settings whose values name models."""

_ABOUT = """\
A bundle of syncd {version}, made by syncd support-bundle. It holds no token, no presigned URL and
no model data. {names}

versions.json     syncd, Python, the system, the packages that syncd runs on
config.json       every setting, secrets as ***, and where each value comes from
status.json       as syncd status --json
history.json      what happened to jobs in the last 14 days, at most {most} events
doctor.json       as syncd doctor --offline --json
filesystems.json  what the trees and the state directory lie on

The log is not here, since syncd keeps none: add what journalctl -u syncd, docker logs or kubectl
logs show for the time in question.
"""
_HIDDEN = "Names of models are digests that mean nothing elsewhere; texts that may quote them are left out."
_SHOWN = "Names of models are in it, as --with-names asked."


class CannotWrite(SyncdError):
    """The bundle cannot be written where it was asked for; the text says where and why."""

    exit_code = 2


@click.command("support-bundle")
@click.option(
    "-o", "--output", metavar="FILE", help="Where to; default: syncd-support-TIME.tar.gz."
)
@click.option("--with-names", is_flag=True, help="Include the names of models.")
@pass_invocation
def support_bundle(invocation: Invocation, output: str | None, with_names: bool) -> int:
    """
    Pack what a bug report needs into one file: configuration, states, events, versions.

    No secret goes into it. Names of models are replaced by digests unless --with-names is given.
    Look into it before you send it: tar tzf FILE.
    """
    loaded = invocation.load()
    name = output or time.strftime("syncd-support-%Y%m%d-%H%M%S.tar.gz")
    documents = _documents(loaded, with_names)
    try:
        with open(name, "xb", opener=_private) as file:
            _pack(file, documents)
    except OSError as error:
        raise CannotWrite(
            f"{printable(name)} cannot be written: {error.strerror}. Name another file with -o."
        ) from None
    click.echo(f"{printable(name)}: {', '.join(documents)}")
    return 0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _pack(file: Any, documents: Mapping[str, str]) -> None:
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in documents.items():
            data = text.encode("utf-8", "backslashreplace")
            entry = tarfile.TarInfo(f"syncd-support/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))


def _documents(loaded: Loaded, with_names: bool) -> dict[str, str]:
    hide = _keep if with_names else _hider(secrets.token_bytes(16))
    about = _ABOUT.format(
        version=__version__, names=_SHOWN if with_names else _HIDDEN, most=EVENTS_MOST
    )
    made: dict[str, Callable[[], object]] = {
        "versions.json": _versions,
        "config.json": lambda: _config(loaded, with_names),
        "status.json": lambda: _status(loaded, hide, with_names),
        "history.json": lambda: _history(loaded, hide, with_names),
        "doctor.json": lambda: _doctor(loaded, with_names),
        "filesystems.json": lambda: _filesystems(loaded),
    }
    texts = {name: json.dumps(_attempt(make), indent=2, default=str) for name, make in made.items()}
    # A belt beside the braces: whatever a text holds that looks like a secret is hidden once more.
    return {"README.txt": about, **{name: log.scrub(text) for name, text in texts.items()}}


def _attempt(make: Callable[[], object]) -> object:
    """What is asked for, or why it cannot be told: that may be the very thing to report."""
    try:
        return make()
    except SyncdError as error:
        return {"error": str(error)}


# -- names -----------------------------------------------------------------------------------------


def _keep(path: str, root_type: str | None) -> str:
    return path


def _hider(key: bytes) -> Hide:
    def hide(path: str, root_type: str | None) -> str:
        """Digests for all but the type folder and the ending."""
        *folders, name = path.split("/")
        types = folders[:1] if root_type is None else []
        stem, ending = os.path.splitext(name)
        return "/".join([*types, *map(digest, folders[len(types) :]), digest(stem) + ending])

    def digest(text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=key).hexdigest()[:12]

    return hide


def _status(loaded: Loaded, hide: Hide, with_names: bool) -> object:
    document = read_files(os.fspath(loaded.settings.state_dir)).as_document()
    if with_names:
        return document
    files: Any = document["files"]
    hidden = {file["path"]: hide(file["path"], file["root_type"]) for file in files}
    for file in files:
        # The digest of a public model is its name in other words.
        file.update(dict.fromkeys(("model_path", "sha256", "reason", "advice")))
        file["path"] = hidden[file["path"]]
    tries: Any = document["next_tries"]
    for each in tries:
        each.update(path=hidden.get(each["path"], ""), reason=None)
    holds: Any = document["holds"]
    for hold in holds:
        hold["reason"] = _without(hold["reason"], hidden)
    return document


def _without(text: str, hidden: Mapping[str, str]) -> str:
    """*text* with known names hidden, long ones first."""
    for name in sorted(hidden, key=len, reverse=True):
        text = text.replace(name, hidden[name])
        text = text.replace(os.path.basename(name), os.path.basename(hidden[name]))
    return text


def _history(loaded: Loaded, hide: Hide, with_names: bool) -> object:
    since_ms = time.time_ns() // 1_000_000 - SINCE_MS
    with reading(os.fspath(loaded.settings.state_dir), Report) as report:
        events = [] if report is None else report.history(since_ms=since_ms, most=EVENTS_MOST)
    told = [event._asdict() for event in events]
    for event in told:
        event["path"] = hide(event["path"], event["root_type"])
        if not with_names:
            event["reason"] = None
    return told


# -- the rest --------------------------------------------------------------------------------------


def _config(loaded: Loaded, with_names: bool) -> object:
    def value(key: str) -> object:
        found = loaded.value(key)
        if key in _NAMING and not with_names:
            assert isinstance(found, tuple | dict), "a list or a table"
            return f"{len(found)} entries"
        return shown(found)

    return {key: {"value": value(key), "origin": loaded.origins[key]} for key in KEYS}


def _doctor(loaded: Loaded, with_names: bool) -> object:
    checks = list(map(as_dict, local_checks(loaded)))
    for check in checks:
        if check["name"] == "names" and not with_names:
            check["found"] = str(check["found"]).partition("; for example")[0]
    return checks


def _versions() -> object:
    return {
        "syncd": __version__,
        "python": sys.version,
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "packages": dict(_packages()),
    }


def _packages() -> Iterator[tuple[str, str]]:
    for requirement in metadata.requires("syncd") or ():
        name = requirement.partition(";")[0].strip()
        bare = name.split("<")[0].split(">")[0].split("=")[0].strip()
        if "extra" not in requirement:
            yield bare, metadata.version(bare)


def _filesystems(loaded: Loaded) -> object:
    settings = loaded.settings
    places = {"models_dir": settings.models_dir, "state_dir": settings.state_dir}
    return {name: _filesystem(os.fspath(path)) for name, path in places.items()}


def _filesystem(path: str) -> dict[str, object]:
    mount = mounts.mount_of(path)
    told: dict[str, object] = {
        "type": mount.fs_type,
        "network": mounts.network_filesystem(path) is not None,
        "exists": os.path.exists(path),
    }
    if os.path.exists(path):
        room, there = os.statvfs(path), os.stat(path)
        told |= {
            "free": room.f_bavail * room.f_frsize,
            "size": room.f_blocks * room.f_frsize,
            "inodes_free": room.f_favail,
            "mode": f"{there.st_mode & 0o7777:04o}",
            "owner": f"{there.st_uid}:{there.st_gid}",
            "ours": f"{os.geteuid()}:{os.getegid()}",
        }
    return told
