"""
A small run that takes every way a file can go, and what must be true after it was cut short.

One file goes in one request, one in three parts, one was registered before and has changed since,
one stays as it was. The tree is read only; clouds and state directories are made afresh each time.
"""

import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call
from tests.crash.victim import Order
from tests.visitor import Visitor
from tests.weights import HEADER, weights

PROJECT = Path(__file__).parents[2]
PART = 16 * 1024
CAP = PART + 1000
SWITCHES = Switches(part_size=PART, min_part_size=1, single_put_cap=CAP)
"""Bytes: what is above ``CAP`` goes in parts of ``PART``."""

SIZES = {
    "loras/small.safetensors": 4000,
    "checkpoints/parts.safetensors": 3 * PART - 5,
    "loras/changed.safetensors": 5000,
    "vae/kept.safetensors": 6000,
}
KEPT = "vae/kept.safetensors"
BEFORE = ("loras/changed.safetensors", KEPT)
"""What the run before met, and registered."""

YOUNGEST_S = 2.1
"""syncd waits until a file is older than that before it reads it."""


class Starter:
    """A process that has everything imported and forks runs of the service."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.victim"],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, order: Order) -> int:
        """One run to its end; the exit code, negative for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the starter died; what it said is above"
        return int(line)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@dataclass(frozen=True, slots=True)
class Committed:
    """What the database held when a run had been cut short."""

    uploads: frozenset[str]
    parts: frozenset[tuple[str, int]]
    """Upload and number of each part with a committed etag."""


@dataclass(slots=True)
class Scene:
    """One cloud, one state directory, and the tree that all scenes share."""

    folder: Path
    models: Path
    cloud: Sandbox
    starter: Starter
    runs: int = 0

    def sha256(self, rel_path: str) -> str:
        """Of a file in the tree, 64 hex digits."""
        return hashlib.sha256((self.models / rel_path).read_bytes()).hexdigest()

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.folder / "state"

    @property
    def out(self) -> Path:
        """Where the last run's files begin."""
        return self.folder / f"run-{self.runs}"

    def run(self, **how: Any) -> int:
        """``syncd --once``; the exit code, negative for a signal."""
        self.runs += 1
        env = environment(self.models, self.state, self.cloud)
        return self.starter.run(Order(env=env, out=os.fspath(self.out), **how))

    def log(self) -> str:
        """The log of all runs, and what made one fall over."""
        files = sorted(self.folder.glob("run-*.log")) + sorted(self.folder.glob("run-*.fall"))
        return "".join(file.read_text() for file in files)

    def committed(self) -> Committed:
        """What the database holds now."""
        path = self.state / "syncd.db"
        if not path.exists():
            return Committed(frozenset(), frozenset())
        with closing(sqlite3.connect(path)) as raw:
            if not raw.execute("PRAGMA user_version").fetchone()[0]:
                return Committed(frozenset(), frozenset())
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            uploads = raw.execute("SELECT upload_id FROM upload").fetchall()
            parts = raw.execute(
                "SELECT upload_id, number FROM part JOIN job ON job.id = part.job_id"
            ).fetchall()
        return Committed(frozenset(upload for (upload,) in uploads), frozenset(parts))

    def require_recovered(self) -> None:
        """
        Run once more, undisturbed: everything is registered once and right, nothing is left over.

        Call it right after the run that was cut short.
        """
        known, seen = self.committed(), self.cloud.history.next_seq()
        code = self.run()

        assert code == 0, self.log()
        self._require_records()
        self._require_no_repeats(known, seen)

    def _require_records(self) -> None:
        """The catalog holds each file as it is, the store its bytes, and neither holds more."""
        found = {(r["model_path"], r["file_hash"]): r for r in self.cloud.records()}
        expected = {(f"models/{path}", f"sha256:{self.sha256(path)}") for path in SIZES}
        assert found.keys() == expected, self.log()
        for record in found.values():
            stored = self.cloud.stored_sha256(record["storage_key"])
            assert record["file_hash"] == f"sha256:{stored}", record

    def _require_no_repeats(self, known: Committed, seen: int) -> None:
        """No register twice, no committed part twice, no upload that could be remembered left."""
        history = self.cloud.history.entries()
        registered = Counter(e.model_path for e in history if e.call == Call.REGISTER and e.ok)
        assert set(registered.values()) == {1}, registered
        again = {(e.upload_id, e.part) for e in history if e.seq > seen and e.call == Call.PUT_PART}
        assert not again & known.parts, "a committed part was sent again"
        left = {upload.upload_id for upload in self.cloud.open_uploads()}
        unheard = {e.upload_id for e in history if e.seq < seen and e.call == Call.INITIATE}
        assert left <= unheard - known.uploads, "an upload was left open"


class Theatre:
    """Makes scenes: the tree, the state directory that a run before left, and the starters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models = folder / "models"
        self._before = folder / "before"
        self._numbers = iter(range(10**9))
        self._idle: list[Starter] = []
        self._write(BEFORE, b"before")
        with self.scene(fresh=True) as scene:
            assert scene.run() == 0, scene.log()
            shutil.copytree(scene.state, self._before)
        self._write(SIZES.keys() - {KEPT}, b"now")

    def close(self) -> None:
        """End the starters and remove everything."""
        for starter in self._idle:
            starter.close()
        shutil.rmtree(self._folder)

    @contextmanager
    def scene(self, *, fresh: bool = False) -> Iterator[Scene]:
        """A scene of its own; a *fresh* one begins with no state directory at all."""
        folder = self._folder / f"scene-{next(self._numbers)}"
        folder.mkdir()
        # Another seed than the cloud of the run before, or storage keys would come twice.
        with Sandbox(folder / "cloud", switches=SWITCHES, seed=int(not fresh)) as cloud:
            if not fresh:
                shutil.copytree(self._before, folder / "state")
                move_to(cloud, folder / "state", self._models)
            starter = self._idle.pop() if self._idle else self._warm(cloud)
            try:
                yield Scene(folder, self._models, cloud, starter)
            finally:
                self._idle.append(starter)
        shutil.rmtree(folder)

    def folder(self) -> Path:
        """A new folder that goes when the theatre closes."""
        folder = self._folder / f"folder-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def _warm(self, cloud: Sandbox) -> Starter:
        """A starter that has met once what is imported late only."""
        starter = Starter()
        with TemporaryDirectory(dir=self._folder) as folder:
            models = Path(folder) / "models"
            models.mkdir()
            starter.run(
                Order(
                    env=environment(models, Path(folder) / "state", cloud),
                    out=f"{folder}/run",
                    fork=False,
                )
            )
        return starter

    def _write(self, rel_paths: Iterable[str], mark: bytes) -> None:
        for rel_path in rel_paths:
            path = self._models / rel_path
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = random.Random(mark + rel_path.encode())
            path.write_bytes(weights(noise.randbytes(SIZES[rel_path] - HEADER)))
        time.sleep(YOUNGEST_S)


def move_to(cloud: Sandbox, state: Path, models: Path) -> None:
    """The run before was with this cloud: each scene has one of its own, all of them alike."""
    with Visitor(cloud) as visitor:
        visitor.upload((models / KEPT).read_bytes(), f"models/{KEPT}")
    (record,) = cloud.records()
    known = (record["id"], record["storage_key"], os.fsencode(KEPT))
    with closing(sqlite3.connect(state / "syncd.db", isolation_level=None)) as db:
        new = (cloud.base_url, cloud.team_id)
        assert db.execute("UPDATE cloud SET base_url = ?, team_id = ?", new).rowcount == 1
        for table in ("job", "record"):
            moved = f"UPDATE {table} SET record_id = ?, storage_key = ? WHERE rel_path = ?"
            assert db.execute(moved, known).rowcount == 1


def environment(models: Path, state: Path, cloud: Sandbox) -> dict[str, str]:
    """What a run gets to see."""
    return {
        "SYNCD_MODELS_DIR": os.fspath(models),
        "SYNCD_STATE_DIR": os.fspath(state),
        "SYNCD_SETTLE__QUIET_S": "0",
        "SYNCD_SETTLE__QUIET_CLOSED_S": "0",
        "SYNCD_SETTLE__QUIET_NETWORK_S": "0",
        "SYNCD_API__SINGLE_PUT_LIMIT": str(CAP),
        "SYNCD_API__BASE_URL": cloud.base_url,
        "SYNCD_API__TOKEN": cloud.session_token,
        "SYNCD_API__TEAM_ID": cloud.team_id,
    }
