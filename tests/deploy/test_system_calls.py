"""syncd makes only system calls that its units allow."""

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from tests.deploy.test_units import SERVICES, directives, run
from tests.integration.harness import (
    COMMAND,
    DEADLINE_S,
    LARGE,
    MIB,
    PROJECT,
    RUN_S,
    Home,
    records,
    until,
)  # fmt: skip
from tests.weights import weights

ONLY_AS_ROOT = frozenset({"fchown"} if os.geteuid() == 0 else ())
"""Run as root, SQLite changes the owner of its files; the units run as an ordinary user."""


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "cloud", switches=Switches(part_size=5 * MIB)) as sandbox:
        yield sandbox


@pytest.fixture
def home(tmp_path: Path, cloud: Sandbox) -> Home:
    """A small file, and one that is sent in parts."""
    home = Home.at(tmp_path, cloud)
    home.write("loras/one.safetensors", weights(b"one"))
    home.write("checkpoints/large.ckpt", weights(os.urandom(LARGE)))
    home.sign_in(cloud)
    return home


@cache
def members(group: str) -> frozenset[str]:
    """Return the system calls of *group* and of the groups in it."""
    shown = run("systemd-analyze", "syscall-filter", group)
    assert shown.returncode == 0, shown.stderr
    lines = [line.strip() for line in shown.stdout.splitlines()[1:]]
    names = {line for line in lines if line and not line.startswith("#")}
    groups = {name for name in names if name.startswith("@")}
    return frozenset(names - groups).union(*map(members, groups))


def allowed(unit: str) -> frozenset[str]:
    """Apply the filters of *unit* in order, as systemd does."""
    calls = members("@default")
    for value in directives(unit)["systemcallfilter"]:
        words = value.removeprefix("~").split()
        groups = [members(w) if w.startswith("@") else frozenset({w}) for w in words]
        named = frozenset().union(*groups)
        calls = calls - named if value.startswith("~") else calls | named
    return calls


class Traced:
    """``syncd`` under strace; the process is that of the program itself."""

    def __init__(self, home: Home, *args: str) -> None:
        self._summary = home.state.parent / "calls"
        tracer = ["strace", "-D", "-f", "-qq", "-c", "-o", os.fspath(self._summary)]
        with (home.state.parent / "traced.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*tracer, *COMMAND, *args],
                cwd=PROJECT, env=home.environment(), stdout=log, stderr=log,
            )  # fmt: skip

    def calls(self) -> set[str]:
        """Return all calls; the process must have ended."""
        text = until(self._read, "the summary of strace")
        rows = text.splitlines()[2:-2]  # without its head and its sum
        return {row.split()[-1] for row in rows}

    def _read(self) -> str:
        text = self._summary.read_text() if self._summary.exists() else ""
        return text if text.endswith("total\n") else ""


@pytest.mark.needs("strace", "systemd-analyze")
def test_backfill_makes_only_calls_that_its_unit_allows(home: Home, cloud: Sandbox) -> None:
    home.let_age()
    traced = Traced(home, "--once")

    assert traced.process.wait(RUN_S) == 0
    made = traced.calls()
    assert {"openat", "fdatasync", "sendto"} <= made
    assert made - allowed("syncd-once.service") == ONLY_AS_ROOT
    assert len(records(cloud)) == 2


@pytest.mark.needs("strace", "systemd-analyze")
def test_daemon_makes_only_calls_that_its_unit_allows(home: Home, cloud: Sandbox) -> None:
    traced = Traced(home)
    until(lambda: len(records(cloud)) == 2, "the first files")
    home.write("loras/new.safetensors", weights(b"new"))
    until(lambda: len(records(cloud)) == 3, "the new file")
    traced.process.send_signal(signal.SIGTERM)

    assert traced.process.wait(DEADLINE_S) == 143
    made = traced.calls()
    assert {"inotify_add_watch", "fcntl"} <= made
    assert made - allowed("syncd.service") == ONLY_AS_ROOT


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", SERVICES)
def test_unit_filter_refuses_privileged_calls(unit: str) -> None:
    assert {"mount", "ptrace", "setuid", "chown", "bpf", "reboot"} & allowed(unit) == set()
