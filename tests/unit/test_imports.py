"""
One direction, and one door for each library: every module's imports are read and checked.

::

    model, errors, clock <- core <- I/O rooms <- worker, intake, janitor <- assembly <- service <- cli
                                      catalog <-'      dispatch <-'

A room is a module or package directly below ``syncd``. Within a room, too, no module leads back to
itself. The planted sources at the end show that the checker sees what it is for.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import syncd

PACKAGE = Path(syncd.__file__).parent

VALUES = frozenset({"model", "errors", "clock", "places", "text"})
BELOW_IO = VALUES | {"core"}
IO_ROOMS = frozenset(
    {"config", "log", "watch", "scan", "hashing", "formats", "store", "auth", "api", "storage"}
    | {"expected", "notify", "pagecache"}
)
BELOW_WORKER = (
    BELOW_IO
    | IO_ROOMS
    | {"soundness", "progress", "patience", "lanes", "lead", "catalog"}
    | {"overview", "bandwidth"}
)
BELOW_SERVICE = BELOW_WORKER | {
    "hints",
    "allowance",
    "clocksteps",
    "announce",
    "transfer",
    "compare",
    "worker",
    "intake",
    "janitor",
    "retirement",
    "reconcile",
    "connect",
    "applying",
    "dispatch",
    "orders",
    "metrics",
    "control",
    "guest",
    "herald",
    "membership",
}

MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "": frozenset(),  # syncd/__init__.py
    "text": frozenset(),
    "model": frozenset({"text"}),
    "clock": frozenset(),
    "places": frozenset({"text", "errors"}),
    "lock": frozenset({"text", "errors", "places"}),
    "errors": frozenset({"model"}),
    "core": frozenset({"model", "errors"}),
    "progress": frozenset({"model"}),
    "patience": frozenset({"errors", "clock"}),
    "lanes": frozenset({"core", "errors", "patience"}),
    "lead": BELOW_IO,
    **dict.fromkeys(IO_ROOMS, BELOW_IO),
    "store": BELOW_IO | {"lock"},
    "overview": frozenset({"text", "progress", "store"}),
    "orders": BELOW_IO | {"store"},
    "metrics": frozenset({"progress", "store", "overview"}),
    "hashing": BELOW_IO | {"pagecache"},
    "soundness": BELOW_IO | {"formats", "expected", "scan"},
    "wire": BELOW_IO,
    **dict.fromkeys(("api", "storage"), BELOW_IO | {"wire"}),
    "catalog": BELOW_IO | {"api"},
    **dict.fromkeys(("allowance", "clocksteps"), frozenset({"core", "clock", "lanes", "store"})),
    "bandwidth": frozenset({"core", "clock", "hashing"}),
    "transfer": BELOW_WORKER | {"allowance"},
    "worker": BELOW_WORKER | {"transfer"},
    "compare": BELOW_WORKER,
    "hints": frozenset({"model", "clock"}),
    "intake": BELOW_WORKER | {"compare"},
    "janitor": BELOW_WORKER,
    "retirement": BELOW_WORKER,
    "control": BELOW_WORKER | {"transfer", "dispatch", "orders", "metrics"},
    "connect": BELOW_IO | {"api", "auth", "config"},
    "applying": BELOW_WORKER | {"compare", "retirement"},
    "reconcile": BELOW_WORKER,
    "guest": frozenset({"core", "clock", "bandwidth", "progress", "wire"}),
    "herald": BELOW_WORKER,
    "announce": BELOW_WORKER | {"worker", "wire"},
    "dispatch": BELOW_WORKER | {"worker", "allowance", "announce", "clocksteps"},
    "membership": BELOW_WORKER,
    "assembly": BELOW_SERVICE - {"hints", "herald"},
    "service": BELOW_SERVICE | {"assembly"},
    "sandbox": BELOW_IO,
    "lean": frozenset(),
    "cli": BELOW_SERVICE | {"lock", "service", "sandbox", "lean"},
    "__main__": frozenset({"cli"}),
}
"""What a room may import beside itself. A new room gets its line here first."""

DOORS: Mapping[str, frozenset[str]] = {
    "watchdog": frozenset({"watch"}),
    # guest and announce speak to others than the cloud, who get none of what api and storage carry.
    "httpx": frozenset({"wire", "api", "storage", "guest", "announce", "sandbox", "lean"}),
    "httpcore": frozenset({"wire", "api", "storage"}),
    "sqlite3": frozenset({"store"}),
    "apscheduler": frozenset({"service"}),
    "pydantic": frozenset({"config"}),
    "pydantic_core": frozenset({"config"}),
    "pydantic_settings": frozenset({"config"}),
    "yaml": frozenset({"config"}),
    "starlette": frozenset({"control", "sandbox"}),
    "uvicorn": frozenset({"control", "sandbox"}),
    "prometheus_client": frozenset({"metrics"}),
    "truststore": frozenset({"wire"}),
    "xxhash": frozenset({"hashing", "storage"}),
    "keyring": frozenset({"config"}),
    "click": frozenset({"cli"}),
    "segno": frozenset({"cli"}),
    "rich": frozenset({"cli"}),
}

IMPURE = frozenset(
    {"time", "random", "secrets", "socket", "ssl", "select", "selectors", "socketserver", "http"}
    | {"threading", "_thread", "multiprocessing", "concurrent", "asyncio", "queue", "signal"}
    | {"logging", "warnings", "io", "tempfile", "shutil", "glob", "pathlib", "fcntl", "mmap"}
    | {"subprocess", "urllib.request", "sqlite3", "uuid", "fileinput", "linecache"}
)
"""Standard modules that bring a clock, chance, a file, a socket, a thread or a logger into core."""

PURE_OS = frozenset({"fsencode", "fsdecode", "fspath", "sep", "path"})
PURE_OS_PATH = frozenset(
    {"join", "split", "splitext", "basename", "dirname", "normpath", "commonpath"}
)
NOW = frozenset({"now", "utcnow", "today"})


def violations(module: str, source: str, *, package: bool = False) -> list[str]:
    """What the module (``syncd.core.files.diff``) may not do, a sentence each."""
    tree = ast.parse(source)
    room = room_of(module)
    if room not in MAY_IMPORT:
        return [f"{room} has no place in the layering"]
    found = [
        problem
        for name in imported(tree, module, package)
        if (problem := import_problem(room, name)) is not None
    ]
    return found + (list(impure_uses(tree)) if room == "core" else [])


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def imported(tree: ast.AST, module: str, package: bool) -> Iterator[str]:
    """Dotted names, as far as they can be told from the text; relative ones made absolute."""
    here = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def import_problem(room: str, name: str) -> str | None:
    top = name.split(".")[0]
    if top == "syncd":
        target = room_of(name)
        allowed = target in MAY_IMPORT[room] | {room} or target not in MAY_IMPORT
        # A name out of syncd/__init__.py (the version) is nobody's room.
        return None if allowed else f"{room} imports {name}"
    if top in DOORS and room not in DOORS[top]:
        return f"{room} imports {name}, whose door is {', '.join(sorted(DOORS[top]))}"
    if room == "core":
        return core_problem(name, top)
    return None


def core_problem(name: str, top: str) -> str | None:
    if top not in sys.stdlib_module_names:
        return f"core imports {name}: not the standard library"
    if top in IMPURE or name in IMPURE or name.startswith("urllib.request"):
        return f"core imports {name}: not pure"
    if top == "os" and not pure_os(name.split(".")[1:]):
        return f"core imports {name}: not pure"
    return None


def pure_os(path: list[str]) -> bool:
    """Is ``os.<path>`` a question about names, not about files?"""
    if path[:1] == ["path"]:
        return path[1:2] == [] or path[1] in PURE_OS_PATH
    return path == [] or path[0] in PURE_OS


def impure_uses(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node).split(".")
            if dotted[0] == "os" and not pure_os(dotted[1:]):
                yield f"core uses {ast.unparse(node)}"
            if node.attr in NOW:
                yield f"core asks for the time: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "print", "input"):
            yield f"core calls {ast.unparse(node.func)}"


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules of which each imports the next, the last being the first; empty where there are none."""
    names = {name.removesuffix(".__init__") for name in sources}
    needs = {}
    for name, source in sources.items():
        module = name.removesuffix(".__init__")
        found = imported(ast.parse(source), module, package=name != module)
        needs[module] = {module_of(each, names) for each in found} - {module, ""}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def module_of(name: str, modules: set[str]) -> str:
    """Where the dotted *name* is found; empty if it is none of ours."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def modules() -> dict[str, Path]:
    return {
        ".".join(["syncd", *path.relative_to(PACKAGE).with_suffix("").parts]): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_what_lies_below_its_room(name: str) -> None:
    path = modules()[name]
    package = path.name == "__init__.py"
    module = name.removesuffix(".__init__")

    assert violations(module, path.read_text("utf-8"), package=package) == []


def test_no_module_leads_back_to_itself() -> None:
    # The command line imports each command when it is asked for: there two may well need each other.
    sources = {
        name: path.read_text("utf-8") for name, path in modules().items() if room_of(name) != "cli"
    }

    assert circle(sources) == []


def test_a_circle_within_a_room_is_seen() -> None:
    sources = {
        "syncd.worker.__init__": "from syncd.upload.worker import Worker",
        "syncd.upload.worker": "from syncd.worker import ends\nfrom syncd.store import Store",
        "syncd.upload.failures": "def f():\n    from syncd.upload.worker import Worker",
    }

    assert circle(sources) in (
        ["syncd.upload.worker", "syncd.upload.failures", "syncd.upload.worker"],
        ["syncd.upload.failures", "syncd.upload.worker", "syncd.upload.failures"],
    )


def test_the_rooms_that_stand_are_all_looked_at() -> None:
    seen = {room_of(name.removesuffix(".__init__")) for name in modules()}

    assert {"", "model", "errors", "clock", "core", "store", "hashing", "cli"} <= seen


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("syncd.types", "from syncd.errors import Hold"),
        ("syncd.errors", "from syncd import clock"),
        ("syncd.core.files.diff", "from syncd.store import Store"),
        ("syncd.core.files.diff", "from syncd import clock"),
        ("syncd.core.files.diff", "from ..clock import Clock"),
        ("syncd.core.files.diff", "import time"),
        ("syncd.core.files.diff", "from time import monotonic"),
        ("syncd.core.files.diff", "def f():\n    import random"),
        ("syncd.core.files.diff", "import asyncio.events"),
        ("syncd.core.files.diff", "import logging"),
        ("syncd.core.files.diff", "from threading import Lock"),
        ("syncd.core.files.diff", "from pathlib import Path"),
        ("syncd.core.files.diff", "from urllib.request import urlopen"),
        ("syncd.core.files.diff", "from urllib import request"),
        ("syncd.core.files.diff", "from os import stat"),
        ("syncd.core.files.diff", "from os.path import exists"),
        ("syncd.core.files.diff", "import os\nos.stat('a')"),
        ("syncd.core.files.diff", "import os\nsize = os.path.getsize"),
        ("syncd.core.files.diff", "x = open('a')"),
        ("syncd.core.files.diff", "import datetime\nx = datetime.datetime.now()"),
        ("syncd.core.files.diff", "import attrs"),
        ("syncd.core.files.diff", "import xxhash"),
        ("syncd.fs.scanner", "from syncd.store.jobs import Jobs"),
        ("syncd.store.jobs", "from syncd.fs.hashing import make_plan"),
        ("syncd.store.jobs", "from .. import hashing"),
        ("syncd.store", "from ..hashing import make_plan"),
        ("syncd.cloud.client", "import syncd.cloud.credentials"),
        ("syncd.fs.scanner", "if True:\n    import sqlite3"),
        ("syncd.upload.store_steps", "import httpx"),
        ("syncd.upload.worker", "from syncd.service import Service"),
        ("syncd.upload.file_steps", "from syncd.ingest.ingester import Intake"),
        ("syncd.monitoring.progress", "from syncd.store import Store"),
        ("syncd.daemon.components", "from syncd.service import Service"),
        ("syncd.service", "from syncd.cli import entry"),
        ("syncd.service", "from syncd.sandbox.server import Sandbox"),
        ("syncd.service", "from rich.console import Console"),
        ("syncd.sandbox.server", "from syncd.store import Store"),
        ("syncd.fs.watcher", "from apscheduler.schedulers.asyncio import AsyncIOScheduler"),
        ("syncd.log", "import pydantic"),
        ("syncd.surprise", "import json"),
    ],
)
def test_a_planted_violation_is_seen(module: str, source: str) -> None:
    package = module == "syncd.store"

    assert len(violations(module, source, package=package)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "syncd.core.jobs.steps",
            "from syncd.core.jobs.parts import Route\nfrom syncd.types import Job",
        ),
        ("syncd.core.jobs.steps", "from .parts import Route\nfrom ..errors import Hold"),
        ("syncd.core.files.diff", "import os\nname = os.path.basename(os.fsdecode(b'a'))"),
        (
            "syncd.core.files.diff",
            "from urllib.parse import urlsplit\nfrom datetime import datetime",
        ),
        ("syncd.store.jobs", "import sqlite3\nfrom syncd.store.db import Database"),
        (
            "syncd.upload.file_steps",
            "from syncd import hashing\nfrom syncd.upload.context import Run",
        ),
        ("syncd.cli.demo", "import click\nfrom syncd.sandbox.server import Sandbox"),
        ("syncd.cloud.client", "import httpx\nfrom syncd import __version__"),
    ],
)
def test_what_the_direction_allows_is_let_pass(module: str, source: str) -> None:
    assert violations(module, source) == []
