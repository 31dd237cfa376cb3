"""T8: a state directory on a disk of 384 kB."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from syncd.types import Call
from tests.integration.harness import (
    COMMAND,
    PROJECT,
    Daemon,
    Home,
    records,
    until,
)
from tests.tools import NAMESPACES
from tests.weights import weights

pytestmark = pytest.mark.crash

MOUNT = 'mount -t tmpfs -o size=384k,mode=0700 tmpfs "$SYNCD_STATE_DIR" && exec "$@"'
UNSHARED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"]

BEGUN = """
import os
from pathlib import Path
from syncd.control import actions
from syncd.errors import StateFull
from syncd.store.files import Wanted
from syncd.store.store import Store
from tests.integration.test_store import NOW, admit, claim, found, target

state = Path(os.environ["SYNCD_STATE_DIR"])
store = Store(str(state))
store.files.root_id("/models")

def fill():
    with open(state / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
"""

NOTES = """
admit(store)
job = claim(store)
full = 0
for at in range(NOW, NOW + 300):
    try:
        store.jobs.note(job, at, body_sent_at=at)
    except StateFull:
        full += 1
        store.jobs.note(job, at, body_sent_at=at)
print(full)
"""
"""Hundreds of commits of one row; one that found the disk full is made again, once."""

ORDERS = """
paths = [f"loras/{number}.safetensors" for number in range(20)]
store.files.admit([Wanted(found(p), target(p), target(p).model_path) for p in paths], NOW)
store.close()  # the log is cut
store = Store(str(state))
fill()
os.truncate(state / "filler", os.path.getsize(state / "filler") - 32768)
try:
    actions.cancel(store, NOW, paths=["loras"])
except StateFull:
    print(*(f"{state} {n}" for state, n in store.report.counts().items()))
os.unlink(state / "filler")
done = actions.cancel(store, NOW, paths=["loras"])
print(len(done.files), len(done.ended))
"""

START = """
store.close()
fill()
try:
    Store(str(state))
except StateFull as error:
    print(error)
os.unlink(state / "filler")
Store(str(state))
"""


@contextmanager
def on_a_small_disk(home: Home) -> Iterator[Daemon]:
    """The daemon in a world of its own (no privileges needed), where the state disk has 384 kB."""
    home.state.mkdir()
    log = home.state.parent / "daemon.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*UNSHARED, *COMMAND], cwd=PROJECT, env=home.environment(), stderr=output
        )
    try:
        yield Daemon(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def enter(daemon: Daemon) -> list[str]:
    """The beginning of a command that runs where *daemon* sees its small disk."""
    target = str(daemon.process.pid)
    return ["nsenter", "--target", target, "--user", "--mount", "--preserve-credentials"]


def enlarge_disk(home: Home, daemon: Daemon) -> None:
    # With a source, mount adds no options of today's mount: its uid is unknown in the namespace.
    subprocess.run(
        [*enter(daemon), "mount", "-o", "remount,size=8m", "none", home.state], check=True
    )


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "cloud") as cloud:
        yield cloud


def home_with(tmp_path: Path, cloud: Sandbox, files: int) -> Home:
    home, noise = Home.at(tmp_path / "home", cloud), random.Random(files)
    for number in range(files):
        home.write(f"loras/{number}.safetensors", weights(noise.randbytes(1000 + number)))
    return home


def require_each_once(home: Home, cloud: Sandbox, files: int) -> None:
    paths = [f"loras/{number}.safetensors" for number in range(files)]
    assert records(cloud) == {f"models/{path}": home.sha256(path) for path in paths}
    registered = Counter(e.model_path for e in cloud.history.entries(Call.REGISTER) if e.ok)
    assert set(registered.values()) == {1}


@pytest.mark.needs(NAMESPACES)
def test_F19_full_disk_holds_the_daemon_until_space_is_free(tmp_path: Path, cloud: Sandbox) -> None:
    home = home_with(tmp_path, cloud, 60)
    with on_a_small_disk(home) as daemon:
        (began,) = until(lambda: daemon.events("hold.started"), "a hold")
        assert began["kind"] == "state"
        assert "is full. Make room" in began["reason"]
        assert len(cloud.records()) < 60
        (hold,) = json.loads(inside(daemon, home, "status", "--json"))["holds"]
        assert (hold["kind"], hold["needs_operator"]) == ("state", False)
        assert "is full. Make room" in hold["reason"]
        assert "All uploads wait (state): " in inside(daemon, home, "status")

        enlarge_disk(home, daemon)
        until(lambda: len(cloud.records()) == 60, "the last record")
        until(lambda: len(daemon.events("job.ended")) == 60, "its commit")
        assert daemon.stop() == 143

    require_each_once(home, cloud, 60)
    assert [event["kind"] for event in daemon.events("hold.ended")] == ["state"]


def run_on_a_small_disk(tmp_path: Path, script: str) -> list[str]:
    """The lines that *script* says, behind ``BEGUN``."""
    state = tmp_path / "state"
    state.mkdir()
    done = subprocess.run(
        [*UNSHARED, sys.executable, "-c", BEGUN + script],
        cwd=PROJECT,
        env={**os.environ, "SYNCD_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.needs(NAMESPACES)
def test_F19_commit_of_one_row_on_full_disk_truncates_the_log(tmp_path: Path) -> None:
    (full,) = run_on_a_small_disk(tmp_path, NOTES)

    assert int(full) > 1


@pytest.mark.needs(NAMESPACES)
def test_F19_command_on_full_disk_applies_to_all_files_or_none(tmp_path: Path) -> None:
    full, after = run_on_a_small_disk(tmp_path, ORDERS)

    assert full == "queued 20"
    assert after == "20 20"


@pytest.mark.needs(NAMESPACES)
def test_F19_start_on_full_disk_fails_with_advice(tmp_path: Path) -> None:
    (message,) = run_on_a_small_disk(tmp_path, START)

    assert "is full. Make room" in message


@pytest.mark.needs("strace")
def test_F19_io_error_is_not_reported_as_full_disk(tmp_path: Path) -> None:
    index = str(tmp_path / "syncd.db-shm")
    faulty = ["strace", "-f", "-o", "/dev/null", "-P", index, "-e", "inject=pwrite64:error=EIO"]
    done = subprocess.run(
        [*faulty, sys.executable, "-c", BEGUN],
        cwd=PROJECT,
        env={**os.environ, "SYNCD_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "errors.StateError: " in done.stderr
    assert "Check the disk below it" in done.stderr


@pytest.mark.needs(NAMESPACES)
def test_F02_daemon_with_full_state_disk_ends_on_sigterm(tmp_path: Path, cloud: Sandbox) -> None:
    home = home_with(tmp_path, cloud, 60)
    with on_a_small_disk(home) as daemon:
        until(lambda: daemon.events("hold.started"), "a hold")

        assert daemon.stop() == 143


def inside(daemon: Daemon, home: Home, *args: str) -> str:
    """What a command says that sees the daemon's small disk."""
    done = subprocess.run(
        [*enter(daemon), *COMMAND, *args],
        cwd=PROJECT,
        env=home.environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout
