"""
``syncd support-bundle``: collects the data for a bug report in one file, without secrets.

Names of models show what a team works on, so they are included only with ``--with-names``. Without
it, fields that contain or may quote names are left out.
"""

import io
import json
import os
import platform
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import click

from syncd import __version__
from syncd.cli.doctor import as_dict, local_checks
from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.status_data import status_document
from syncd.config.loader import Loaded
from syncd.config.settings import KEYS, shown
from syncd.errors import SyncdError
from syncd.monitoring import log
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import printable

EVENTS_MOST = 2000
SINCE_MS = 14 * 86_400_000

# Settings and fields that contain or may quote names; the hash of a public model identifies it.
_NAMING = ("naming.map", "select.include", "select.exclude")
_NAME_FIELDS = frozenset({"path", "model_path", "sha256", "reason", "advice"})

_ABOUT = """\
A bundle of syncd {version}, made by syncd support-bundle. It contains no token, no presigned URL
and no model data. {names}

versions.json     versions of syncd, Python, the system and packages
config.json       all settings with their origins; secrets are ***
status.json       from syncd status --json
history.json      events of the last 14 days, at most {most}
doctor.json       from syncd doctor --offline --json

The log is not included, because syncd stores none. Please add the output of journalctl -u syncd,
docker logs or kubectl logs for the time in question.
"""


@click.command("support-bundle")
@click.option(
    "-o", "--output", metavar="FILE", help="Output file. Default: syncd-support-TIME.tar.gz."
)
@click.option("--with-names", is_flag=True, help="Include the names of models.")
@pass_invocation
def support_bundle(invocation: Invocation, output: str | None, with_names: bool) -> int:
    """
    Collect the data for a bug report in one file: configuration, status, events, versions.

    The file contains no secrets, and names of models only with --with-names. Check its content before
    you send it: tar tzf FILE.
    """
    loaded = invocation.load()
    name = output or time.strftime("syncd-support-%Y%m%d-%H%M%S.tar.gz")
    documents = _documents(loaded, with_names)
    try:
        with open(name, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            _pack(file, documents)
    except OSError as error:
        raise click.UsageError(
            f"{printable(name)} cannot be written: {error.strerror}. Name another file with -o."
        ) from None
    click.echo(f"{printable(name)}: {', '.join(documents)}")
    return 0


def _pack(file: Any, documents: Mapping[str, str]) -> None:
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in documents.items():
            data = text.encode("utf-8", "backslashreplace")
            entry = tarfile.TarInfo(f"syncd-support/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))


def _documents(loaded: Loaded, with_names: bool) -> dict[str, str]:
    names = "Names of models, and texts that may quote them, are left out."
    if with_names:
        names = "It contains names of models (--with-names)."
    about = _ABOUT.format(version=__version__, names=names, most=EVENTS_MOST)
    made: dict[str, Callable[[], object]] = {
        "versions.json": lambda: {
            "syncd": __version__,
            "python": sys.version,
            "system": platform.platform(),
            "packages": {package.name: package.version for package in metadata.distributions()},
        },
        "config.json": lambda: _config(loaded, with_names),
        "status.json": lambda: _status(loaded, with_names),
        "history.json": lambda: _history(loaded, with_names),
        "doctor.json": lambda: _doctor(loaded, with_names),
    }
    texts = {name: json.dumps(_attempt(make), indent=2, default=str) for name, make in made.items()}
    # Defense in depth: mask everything that looks like a secret.
    return {"README.txt": about, **{name: log.scrub(text) for name, text in texts.items()}}


def _attempt(make: Callable[[], object]) -> object:
    """Return the document, or the error: it may be what the report is about."""
    try:
        return make()
    except SyncdError as error:
        return {"error": str(error)}


def _status(loaded: Loaded, with_names: bool) -> object:
    document = status_document(os.fspath(loaded.settings.state_dir))
    if not with_names:
        names = {os.path.basename(file["path"]) for file in document["files"]}
        for hold in document["holds"]:
            if any(name in hold["reason"] for name in names):
                hold["reason"] = None
        lists = [(document, "files"), (document, "next_tries")]
        if progress := document["progress"]:
            lists += [(progress, "running"), (progress, "settling")]
        for parent, member in lists:
            parent[member] = [_without_names(entry) for entry in parent[member]]
    return document


def _without_names(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in _NAME_FIELDS}


def _history(loaded: Loaded, with_names: bool) -> object:
    since_ms = time.time_ns() // 1_000_000 - SINCE_MS
    with reading(os.fspath(loaded.settings.state_dir), Report) as report:
        events = [] if report is None else report.history(since_ms=since_ms, most=EVENTS_MOST)
    entries = [event._asdict() for event in events]
    return entries if with_names else [_without_names(entry) for entry in entries]


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
