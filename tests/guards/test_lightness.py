"""
What is imported by the commands that are asked for most, and by a daemon that has nothing to do.

Modules are counted, not milliseconds or bytes: importing is what both are made of.
"""

import signal
import subprocess
import sys
from pathlib import Path

from syncd.sandbox.server import Sandbox
from tests.integration.harness import PROJECT, Home, until

CALL = (
    "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
    "from syncd.cli.fast_path import entry; entry()"
)

HEAVY = frozenset(
    {
        "asyncio",
        "click",
        "dataclasses",
        "httpx",
        "inspect",
        "logging",
        "pathlib",
        "pydantic",
        "rich",
    }
    | {"structlog", "syncd.types", "syncd.monitoring.progress", "syncd.store.reports", "tomllib"}
)
"""What would take a good part of the time that an answer may take."""

UNUSED = frozenset(
    {
        "difflib",
        "markdown_it",
        "prometheus_client",
        "pygments",
        "rich",
        "syncd.monitoring.metrics",
        "yaml",
    }
)
"""What a daemon does not need as long as nobody asks, or ever."""

MOST = 105
"""Modules; an interpreter that does nothing has some 35."""


def modules_of(home: Home, *args: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", CALL, *args],
        cwd=PROJECT, env=home.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_fast_commands_and_idle_daemon_import_only_what_they_use(
    tmp_path: Path,
) -> None:
    with Sandbox(tmp_path / "cloud") as cloud:
        home = Home.at(tmp_path / "home", cloud)
        home.sign_in(cloud)
        home.write("loras/a.note", b"x")
        said = tmp_path / "said"
        with said.open("wb") as output:
            daemon = subprocess.Popen(
                [sys.executable, "-c", CALL],
                cwd=PROJECT, env=home.environment(), stdout=output, stderr=output,
            )  # fmt: skip
        try:
            until(lambda: b"scan.finished" in said.read_bytes(), "the first walk")
            questions = (["--help"], ["health"], ["status"], ["status", "--json"])
            quick = {" ".join(args): modules_of(home, *args) for args in questions}
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
        finally:
            daemon.kill()
            daemon.wait()
    resting = set(said.read_text().splitlines()[-1].split())

    assert {command: modules & HEAVY for command, modules in quick.items()} == {
        command: set() for command in quick
    }
    assert {
        command: len(modules) for command, modules in quick.items() if len(modules) > MOST
    } == {}
    assert {"syncd.daemon.service", "httpx", "structlog"} <= resting
    assert resting & UNUSED == set()
