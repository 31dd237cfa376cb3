"""
The ``syncd`` command as a user meets it: a process with an environment, a tree and exit codes.

Nothing of the program is imported here but its sandbox, which plays the cloud.
"""

import atexit
import hashlib
import itertools
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import pytest

from syncd.sandbox.server import Sandbox
from tests.weights import HEADER, weights

T = TypeVar("T")

PROJECT = Path(__file__).parents[2]
LATEST_S = 2.0
"""Seconds that a lost register or complete may arrive late here, where nothing takes longer."""

IN_A_HURRY = f"from syncd.core.jobs import retry_policy; retry_policy.LATEST_S = {LATEST_S}; "
COMMAND = (sys.executable, "-c", f"{IN_A_HURRY}from syncd.cli.fast_path import entry; entry()")
STANDBY = (
    sys.executable,
    "-c",
    f"{IN_A_HURRY}from tests.integration import standby; standby.main()",
)

Account = tuple[int, Sequence[int]]
"""The user id of another account (its group has the same number), and its other groups."""

DEADLINE_S = 30.0
"""Nothing that a test waits for takes longer, unless it says so."""

RUN_S = 90.0
"""Nor does a command that a test runs to its end."""

MIB = 1024 * 1024
LARGE = 6 * MIB
CAP = 4 * MIB
"""Bytes: a file of ``LARGE`` is above ``CAP`` and travels in two parts of 5 MiB at most."""

SETTLE_S = 0.2

YOUNGEST_S = 2.0
"""syncd looks twice at a file that was touched more recently than this, so tests use older ones."""


_SMALL = {"loras/one.safetensors": 3000, "vae/two.pt": 2000}
_WITH_LARGE = {**_SMALL, "checkpoints/large.ckpt": LARGE}
"""The files of a prepared home, and their sizes in bytes."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str
    seconds: float

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log's lines, or those of one event."""
        lines = [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]
        return [line for line in lines if name in (None, line["event"])]

    @property
    def said(self) -> str:
        """What a person reads on stderr: everything but the log."""
        return "\n".join(line for line in self.err.splitlines() if not line.startswith("{"))


@dataclass(slots=True)
class Home:
    """
    A machine with a models tree and a state directory.

    ``env`` holds the ``SYNCD_`` variables and may be changed between commands.
    """

    models: Path
    state: Path
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, cloud: Sandbox | None = None) -> "Home":
        """A home in *folder* with an empty tree, a client of *cloud* with its device key."""
        home = cls(folder / "models", folder / "state")
        home.models.mkdir(parents=True)
        home.env = {
            "SYNCD_MODELS_DIR": os.fspath(home.models),
            "SYNCD_STATE_DIR": os.fspath(home.state),
            "SYNCD_SETTLE__QUIET_S": str(SETTLE_S),
            "SYNCD_SETTLE__QUIET_CLOSED_S": str(SETTLE_S),
            "SYNCD_SETTLE__QUIET_NETWORK_S": str(SETTLE_S),
            "SYNCD_API__SINGLE_PUT_LIMIT": str(CAP),
        }
        if cloud is not None:
            home.env |= {
                "SYNCD_API__BASE_URL": cloud.base_url,
                "SYNCD_API__TOKEN": cloud.device_key,
            }
        return home

    def sign_in(self, cloud: Sandbox) -> None:
        """Use the user's session from now on."""
        self.env |= {
            "SYNCD_API__TOKEN": cloud.session_token,
            "SYNCD_API__TEAM_ID": cloud.team_id,
        }

    # -- the tree --------------------------------------------------------------------------------

    def write(self, rel_path: str, data: bytes) -> Path:
        """A file in the tree."""
        path = self.models / rel_path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def let_age(self) -> None:
        """Until the files just written are old enough to be looked at once."""
        time.sleep(YOUNGEST_S + 0.1)

    def sha256(self, rel_path: str) -> str:
        """Of a file in the tree, 64 hex digits."""
        return hashlib.sha256((self.models / rel_path).read_bytes()).hexdigest()

    # -- the command -----------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """What a process of this home gets to see, and nothing of ours."""
        folder = os.fspath(self.state.parent)
        return {"PATH": os.environ["PATH"], "HOME": folder, "LANG": "C.UTF-8", **self.env}

    def run(self, *args: str, account: Account | None = None) -> Finished:
        """``syncd`` with *args*, to its end; as another *account* if one is given (root may)."""
        return standby().run(args, self.environment(), self.state.parent, account)

    def once(self) -> Finished:
        """``syncd --once``."""
        return self.run("--once")

    def status(self) -> dict[str, Any]:
        """``syncd status --json``, held to its schema."""
        return self.document("status")

    def plan(self) -> dict[str, Any]:
        """``syncd plan --json``, held to its schema."""
        return self.document("plan")

    def counts(self) -> dict[str, int]:
        """How many files are in each state."""
        return dict(self.status()["files_by_state"])

    def file(self, rel_path: str) -> dict[str, Any]:
        """What ``status`` says of one file."""
        (found,) = [file for file in self.status()["files"] if file["path"] == rel_path]
        return dict(found)

    def document(self, command: str, *args: str, code: int = 0) -> dict[str, Any]:
        """The ``--json`` output of a command that ends with *code*, held to its schema."""
        done = self.run(command, *args, "--json")
        assert done.code == code, done.err
        document: dict[str, Any] = json.loads(done.out)
        schema = json.loads((PROJECT / f"docs/schemas/{command}.schema.json").read_text())
        jsonschema.validate(document, schema)
        return document

    @contextmanager
    def daemon(self) -> Iterator["Daemon"]:
        """``syncd``, running; ended with SIGKILL if the block did not end it."""
        log = self.state.parent / "daemon.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                COMMAND, cwd=PROJECT, env=self.environment(), stdout=output, stderr=output
            )
        daemon = Daemon(process, log)
        try:
            yield daemon
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


class Standby:
    """
    Starts commands in a process that has everything imported already and forks.

    A command is a process of its own all the same; it only saves the second that importing takes.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            STANDBY,
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    def run(
        self,
        args: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        account: Account | None = None,
    ) -> Finished:
        """One command to its end; its output goes through files in *folder*."""
        out, err = folder / "stdout", folder / "stderr"
        order = {
            "args": args,
            "env": env,
            "out": os.fspath(out),
            "err": os.fspath(err),
            "account": account,
        }
        started_s = time.monotonic()
        code = self._ask(order)
        seconds = time.monotonic() - started_s
        return Finished(code, out.read_text("utf-8"), err.read_text("utf-8"), seconds)

    def close(self) -> None:
        """End it, and a command that may still run."""
        with self._process:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _ask(self, order: Mapping[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], RUN_S)
        if not ready:
            self.close()
            standby.cache_clear()
            pytest.fail(f"a command did not end within {RUN_S} s: {order['args']}")
        return int(self._process.stdout.readline())


@cache
def standby() -> Standby:
    """The one of this session."""
    started = Standby()
    atexit.register(started.close)
    return started


@dataclass(frozen=True, slots=True)
class Daemon:
    """A ``syncd`` that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log's lines so far, or those of one event."""
        lines = [json.loads(x) for x in self.log.read_text().splitlines() if x.startswith("{")]
        return [line for line in lines if name in (None, line["event"])]

    def started(self) -> None:
        """Wait until the first walk is over."""
        until(lambda: self.events("scan.finished"), "the first walk")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit code as a shell would show it."""
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE_S)
        return 128 - code if code < 0 else code


def until(look: Callable[[], T], what: str, *, within_s: float = DEADLINE_S) -> T:
    """
    The first answer of *look* that counts as true.

    Raises:
        AssertionError: None came within *within_s*.
    """
    deadline = time.monotonic() + within_s
    while not (answer := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {within_s} s"
        time.sleep(0.05)
    return answer


class Nursery:
    """
    Homes whose files were written a while ago: ``loras/one.safetensors`` and ``vae/two.pt``.

    A home is made by renaming a tree that was written earlier, which leaves the files' timestamps
    alone. Each tree that is taken is replaced by a new one, so the supply does not run out.

    Args:
        folder: On the file system of the homes.
        now_s: A monotonic clock, in seconds.
        sleep: Waits for as many seconds.
    """

    SMALL = 32
    WITH_LARGE = 8
    """Trees kept in stock: enough that one is seldom taken before it is ``YOUNGEST_S`` old."""

    def __init__(
        self,
        folder: Path,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._now_s, self._sleep = now_s, sleep
        self._noise = random.Random(1)
        self._names = (folder / str(number) for number in itertools.count())
        self._small = deque(self._tree(_SMALL) for _ in range(self.SMALL))
        self._large = deque(self._tree(_WITH_LARGE) for _ in range(self.WITH_LARGE))

    def home(self, folder: Path, cloud: Sandbox | None, *, large: bool = False) -> Home:
        """A home in *folder*; with *large* it also holds ``checkpoints/large.ckpt``."""
        home = Home.at(folder, cloud)
        home.models.rmdir()
        stock, files = (self._large, _WITH_LARGE) if large else (self._small, _SMALL)
        tree, written_s = stock.popleft()
        self._sleep(max(0.0, written_s + YOUNGEST_S - self._now_s()))
        tree.rename(home.models)
        stock.append(self._tree(files))
        return home

    def _tree(self, files: Mapping[str, int]) -> tuple[Path, float]:
        """A new tree, and when it was written."""
        tree = next(self._names)
        for rel_path, size in files.items():
            path = tree / rel_path
            path.parent.mkdir(parents=True)
            path.write_bytes(weights(self._noise.randbytes(size - HEADER)))
        return tree, self._now_s()


def records(cloud: Sandbox) -> dict[str, str]:
    """model_path -> the SHA-256 that its active record claims; every record's object must have it."""
    listed = [record for record in cloud.records() if record["model_status"] == "active"]
    for record in listed:
        stored = cloud.stored_sha256(record["storage_key"])
        assert record["file_hash"] == f"sha256:{stored}", f"{record['model_path']} is not its hash"
    claimed = {record["model_path"]: record["file_hash"][7:] for record in listed}
    assert len(claimed) == len(listed), "a path has two records"
    return claimed


def deeds(cloud: Sandbox) -> list[str]:
    """Those of the calls that change something, or prepare that: all but looks at the catalog."""
    return [call for call in calls(cloud) if call not in ("list_models", "get_model", "agents")]


def calls(cloud: Sandbox) -> list[str]:
    """The calls so far, by name, in the order in which they took effect."""
    return [entry.call for entry in cloud.history.entries()]
