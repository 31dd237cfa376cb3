"""
Real programs write models into a watched tree: half a model never leaves, a finished one does.

Every program brings each kind of file twice, all into one tree under one daemon. Half way it stands
still for longer than syncd waits; then it is killed, or goes on to the end.
"""

import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home, records, until
from tests.model_files import gguf, torch_zip
from tests.weights import MIB, sha256_of, write_safetensors
from tests.writers.programs import GGUF, PROGRAMS, PT, SAFETENSORS, WRITERS, Errand, Writer
from tests.writers.slow_server import serving

WINDOW_S = 0.6
"""Seconds a file must stand still; twice as long if it is sparse."""

STALL_S = 5.0
HOLD_S = 2.5
"""Seconds a file stands half-written: longer than the longest window, and than a tick after it."""

FOREVER_S = 60.0
SIZE = 2 * MIB
AT_ONCE = 32
LATEST_S = 120.0


@dataclass(frozen=True, slots=True)
class Run:
    """One program that brings one file, and is killed on the way or finishes."""

    writer: Writer
    kind: str
    killed: bool

    @property
    def folder(self) -> str:
        words = re.sub(r"[^a-z0-9]+", "-", self.writer.name.lower())
        return f"{words}-{self.kind}-{'killed' if self.killed else 'finished'}"

    @property
    def rel_path(self) -> str:
        return f"checkpoints/{self.folder}/model.{self.kind}"

    @property
    def model_path(self) -> str:
        return f"models/{self.rel_path}"


RUNS = [
    Run(writer, kind, killed)
    for killed in (True, False)
    for writer in WRITERS
    for kind in writer.kinds
    if killed or writer.removed is None
]


# -- the models ------------------------------------------------------------------------------------


def _write_gguf(path: Path) -> None:
    data = SIZE // 4 * 4
    header = gguf([], [("w", (data // 4,), 0, 0)], 0)
    path.write_bytes(header + os.urandom(data))


def _write_pt(path: Path) -> None:
    pieces = {f"archive/data/{n}": os.urandom(SIZE // 4) for n in range(4)}
    path.write_bytes(torch_zip({"archive/data.pkl": b"\x80\x02}.", **pieces}))


MAKE: Mapping[str, Callable[[Path], object]] = {
    SAFETENSORS: lambda path: write_safetensors(path, SIZE),
    GGUF: _write_gguf,
    PT: _write_pt,
}


# -- one run ---------------------------------------------------------------------------------------


def _seen(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """All that moves while a file is written: names, sizes, times, blocks."""
    seen = []
    for parent, folders, names in os.walk(folder):
        if ".git" in folders:
            folders.remove(".git")
        for name in names:
            try:
                found = os.stat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            seen.append((name, found.st_size, found.st_mtime_ns, found.st_blocks))
    return tuple(sorted(seen))


@dataclass(slots=True)
class Watch:
    """How long a folder has stood still while something was in it."""

    folder: Path
    seen: object = ()
    since_s: float = 0.0
    longest_s: float = 0.0

    def look(self) -> float:
        """Seconds that it stands as it is."""
        seen, now_s = _seen(self.folder), time.monotonic()
        if seen != self.seen or not seen:
            self.seen, self.since_s = seen, now_s
        self.longest_s = max(self.longest_s, now_s - self.since_s)
        return now_s - self.since_s

    @property
    def written(self) -> int:
        """Bytes in the largest file."""
        return max((size for _, size, *_ in _seen(self.folder)), default=0)


def write(run: Run, errand: Errand) -> str:
    """Start the program and see it through, to its end or the kill; the SHA-256 of its source."""
    watch, given = Watch(errand.target.parent), sha256_of(errand.source)
    log = errand.scratch / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            run.writer.command(errand),
            cwd=errand.scratch,
            env={**os.environ, **run.writer.env(errand)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            _see_through(run, process, watch)
        finally:
            _signal(process, signal.SIGKILL)
    assert run.killed or process.returncode == 0, f"{run.folder}: {log.read_text()}"
    assert watch.longest_s > 2 * WINDOW_S, f"{run.folder} did not stall: {log.read_text()}"
    if run.writer.removed is not None:
        errand.target.with_name(errand.target.name + run.writer.removed).unlink()
    return given


def _see_through(run: Run, process: subprocess.Popen[bytes], watch: Watch) -> None:
    stopped = False
    deadline_s = time.monotonic() + LATEST_S
    while process.poll() is None:
        assert time.monotonic() < deadline_s, f"{run.folder} goes on and on"
        if run.writer.limited and not stopped and watch.written > SIZE * 0.4:
            _signal(process, signal.SIGSTOP)
            stopped = True
        stood_s = watch.look()
        if stood_s > HOLD_S and run.killed:
            _signal(process, run.writer.kill)
            _signal(process, signal.SIGCONT)
            process.wait(LATEST_S)
        elif stood_s > HOLD_S and stopped:
            _signal(process, signal.SIGCONT)
        time.sleep(0.05)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To all that the program started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


# -- all of them -----------------------------------------------------------------------------------


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the tree."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert os.stat(folder).st_dev != tmp_path.stat().st_dev, "cp and mv would need no time"
        yield Path(folder)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "cloud") as sandbox:
        yield sandbox


@pytest.fixture
def home(tmp_path: Path, cloud: Sandbox) -> Home:
    home = Home.at(tmp_path / "home", cloud)
    for window in ("QUIET_S", "QUIET_CLOSED_S", "QUIET_NETWORK_S"):
        home.env[f"SYNCD_SETTLE__{window}"] = str(WINDOW_S)
    return home


def write_all(home: Home, other_disk: Path) -> dict[Run, str]:
    """Let all programs write, some dozens at a time."""
    with serving(other_disk) as server, ThreadPoolExecutor(AT_ONCE) as pool:

        def written(run: Run) -> str:
            return write(run, prepare(run, home, other_disk, server.url))

        runs = random.Random(1).sample(RUNS, len(RUNS))  # the like ones are not all at once
        return dict(zip(runs, pool.map(written, runs), strict=True))


def prepare(run: Run, home: Home, other_disk: Path, url: str) -> Errand:
    source = other_disk / run.folder / f"model.{run.kind}"
    scratch = other_disk / "scratch" / run.folder
    target = home.models / run.rel_path
    for folder in (source.parent, scratch, target.parent):
        folder.mkdir(parents=True)
    MAKE[run.kind](source)
    stall_s = FOREVER_S if run.killed else STALL_S
    return Errand(source, target, scratch, url, run.folder, stall_s)


def reported(home: Home) -> dict[str, tuple[str, str]]:
    """State and reason of each file that ``status`` calls incomplete or refused, by its path."""
    return {
        file["path"]: (file["state"], file["reason"])
        for file in home.status()["files"]
        if file["state"] in ("incomplete", "refused")
    }


@pytest.mark.needs(*PROGRAMS)
@pytest.mark.parametrize("lease", ["true", "false"])
def test_I05_half_model_of_real_program_is_never_presigned_and_complete_one_is_registered(
    home: Home, cloud: Sandbox, other_disk: Path, lease: str
) -> None:
    home.env["SYNCD_SETTLE__READ_LEASE"] = lease
    home.env |= {"SYNCD_SETTLE__ONCE_WAIT_S": "12", "COLUMNS": "240"}
    killed, finished = ([run for run in RUNS if run.killed is ended] for ended in (True, False))
    unsound = {run.rel_path for run in killed if run.writer.left is not None}

    def all_are_registered() -> bool:
        return all(run.model_path in records(cloud) for run in finished)

    def all_are_reported() -> bool:
        time.sleep(1)  # each attempt is a process
        return unsound <= reported(home).keys()

    with home.daemon() as daemon:
        daemon.started()
        given = write_all(home, other_disk)
        until(all_are_registered, "the finished models", within_s=90)
        until(all_are_reported, "a reason for the others", within_s=90)
        assert daemon.stop() == 143
    again = home.once()  # a new start does not take them, either

    states = reported(home)
    presigned = Counter(str(entry.model_path) for entry in cloud.history.entries("presign"))
    assert presigned == {run.model_path: 1 for run in finished}
    assert records(cloud) == {run.model_path: home.sha256(run.rel_path) for run in finished}
    assert [run.folder for run in killed if brought(run, home, given[run])] == []
    assert [r.folder for r in finished if not (r.writer.makes or brought(r, home, given[r]))] == []
    for run in killed:
        if run.writer.left is not None:
            state, reason = states[run.rel_path]
            assert state == run.writer.left[0], run.folder
            assert run.writer.left[1] in reason, run.folder
    assert again.code == 1


def brought(run: Run, home: Home, given: str) -> bool:
    """Does the tree hold the very bytes (SHA-256 *given*) that the program was given?"""
    target = home.models / run.rel_path
    return target.exists() and sha256_of(target) == given
