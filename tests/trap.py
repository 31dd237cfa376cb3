"""The command in a fresh process: run to its end, or killed at a chosen moment."""

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from syncd.sandbox.history import Entry
from tests.integration.harness import COMMAND, PROJECT, Finished, Home

RUN_S = 120.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database says of a job."""

    state: str
    sha256: str | None
    storage_key: str | None
    upload_id: str | None
    stored: bool
    etags: frozenset[int]


def facts(home: Home) -> dict[str, Facts]:
    """By model_path, what was committed for its latest job; a reader disturbs no writer."""
    with closing(sqlite3.connect(f"file:{home.state}/syncd.db?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT model_path, state, sha256, storage_key, upload_id, stored_at IS NOT NULL,"
            " (SELECT json_group_array(number) FROM part WHERE job_id = job.id)"
            " FROM job ORDER BY id"
        ).fetchall()
    return {
        path: Facts(state, sha256, key, upload, bool(stored), frozenset(json.loads(numbers)))
        for path, state, sha256, key, upload, stored, numbers in rows
    }


def run(home: Home, *args: str) -> Finished:
    """``syncd`` with *args*, from the start of the interpreter to its end."""
    started_s = time.monotonic()
    done = subprocess.run(
        [*COMMAND, *args],
        cwd=PROJECT,
        env=home.environment(),
        capture_output=True,
        timeout=RUN_S,
        check=False,
    )
    seconds = time.monotonic() - started_s
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode(), seconds)


def start(home: Home, *args: str) -> subprocess.Popen[bytes]:
    """``syncd`` with *args*, in the background; nobody listens to what it says."""
    return subprocess.Popen(
        [*COMMAND, *args],
        cwd=PROJECT,
        env=home.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class Trap:
    """
    A listener of the cloud's history that kills a command with SIGKILL at a certain entry.

    An entry is written after the call took effect (or was kept from it) and before the client is
    told: the command dies in between, every time.
    """

    def __init__(self) -> None:
        self._victim: subprocess.Popen[bytes] | None = None
        self._wanted: Callable[[Entry], bool] = lambda entry: False

    def __call__(self, entry: Entry) -> None:
        if self._victim is not None and self._wanted(entry):
            self._victim.kill()
            self._victim.wait()

    def kill(self, home: Home, when: Callable[[Entry], bool], *args: str) -> None:
        """
        Run ``--once``, with *args* before it, until *when*, and kill it there.

        Raises:
            AssertionError: It ended before, or was not killed in time.
        """
        self._wanted, self._victim = when, start(home, *args, "--once")
        code = self._victim.wait(RUN_S)
        self._wanted = lambda entry: False
        assert code == -signal.SIGKILL, f"it ended by itself, with {code}"


def nth(call: str | None, number: int = 1) -> Callable[[Entry], bool]:
    """True for the *number*-th entry of *call* (None: of any), counted from now."""
    left = number

    def is_it(entry: Entry) -> bool:
        nonlocal left
        meant = call in (None, entry.call)
        left -= meant
        return meant and left == 0

    return is_it
