"""Processes under measurement: what a run of one took, and what one that goes on takes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from bench.scenario import tell

TICKS_S = 1 / os.sysconf("SC_CLK_TCK")
PROFILE_HZ = 200
TOP = 12
WAITING = (
    "_worker (concurrent/futures/thread.py)",
    "EpollSelector.select (selectors.py)",
    "Condition.wait (threading.py)",
    "InotifyFD._check_inotify_fd (watchdog/observers/inotify_c.py)",
)


@dataclass(frozen=True, slots=True)
class Command:
    """A process to be measured."""

    arguments: list[str]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Ours and what it is given."""
        return {**os.environ, **self.env}

    def within(self, *words: str) -> "Command":
        """The same, started by another command."""
        return Command([*words, *self.arguments], self.env)


@dataclass(frozen=True, slots=True)
class JobContext:
    """
    One run of a command: seconds of wall and processor, and bytes.

    ``resident`` is the largest resident size; ``read`` came out of read calls, of files for the
    most part, ``read_from_disk`` past the page cache.
    """

    wall_s: float
    cpu_s: float
    resident: int
    read: int
    read_from_disk: int


def timed(name: str, command: Command, said: Path | None = None) -> JobContext:
    """
    Run it once, to its end; what it says goes to the file *said*, if that is wanted.

    Raises:
        SystemExit: It failed; with what it said.
    """
    with TemporaryFile("w+") as taken:
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" 3>&0 <&-', "sh", sys.executable, "-m", "bench.meter",
             *command.arguments],
            env=command.environment,
            stdin=taken,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            text = done.stdout.decode(errors="replace")
            raise SystemExit(f"{name} failed:\n{text[-4000:]}")
        if said is not None:
            said.write_bytes(done.stdout)
        taken.seek(0)
        return JobContext(**json.load(taken))


def drop_cached(path: Path) -> None:
    """Take the pages of this one file out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def cached(path: Path) -> int:
    """Bytes of the file that lie in the page cache."""
    said = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(said.stdout)


# -- one that goes on --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selected:
    """What a process has taken so far: processor seconds, wake-ups, and resident bytes now."""

    cpu_s: float
    wakeups: int
    resident: int


def taken(pid: int) -> Selected:
    """See "proc_pid_stat(5)" and "proc_pid_status(5)"; wake-ups are voluntary switches of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    wakeups = sum(
        _status(task, "voluntary_ctxt_switches") for task in Path(f"/proc/{pid}/task").iterdir()
    )
    cpu_s = (int(fields[11]) + int(fields[12])) * TICKS_S
    return Selected(cpu_s, wakeups, _status(Path(f"/proc/{pid}"), "VmRSS") * 1024)


def most_resident(pid: int) -> int:
    """Bytes: the largest resident size so far."""
    return _status(Path(f"/proc/{pid}"), "VmHWM") * 1024


def _status(process: Path, name: str) -> int:
    for line in (process / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


@contextmanager
def running(command: Command, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run it beside us, ended by SIGTERM; what it says goes to a file."""
    with said.open("wb") as output:
        process = subprocess.Popen(
            command.arguments, env=command.environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def events(said: Path, name: str) -> list[dict[str, object]]:
    """The log lines of one event so far."""
    mark = f'"event": "{name}"'
    with said.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if mark in line and line.endswith("}\n")]


def wait_for(
    said: Path, name: str, process: subprocess.Popen[bytes], within_s: float = 600
) -> None:
    """
    Until the event was logged.

    Raises:
        SystemExit: The process ended, or it took longer than *within_s*.
    """
    until_s = time.monotonic() + within_s
    while not events(said, name):
        if process.poll() is not None or time.monotonic() > until_s:
            text = said.read_text("utf-8", "replace")
            raise SystemExit(f"{name} did not come:\n{text[-4000:]}")
        time.sleep(0.1)


# -- profiles ----------------------------------------------------------------------------------------

Profile = list[tuple[str, float]]
"""Functions and their share of all samples, largest first."""


def profiled(name: str, command: Command) -> Profile:
    """One more run of it, under py-spy: the functions it was in, most often first."""
    tell(f"profile of {name} ...")
    with TemporaryDirectory(prefix="syncd-bench-") as folder:
        stacks = Path(folder) / "stacks"
        spy = command.within(*_spy(stacks), "--")
        subprocess.run(spy.arguments, env=command.environment, capture_output=True)
        return _read(stacks)


@contextmanager
def spied(name: str, pid: int) -> Iterator[Profile]:
    """A profile of a process that runs already, for as long as the block lasts; filled at its end."""
    tell(f"profile of {name} ...")
    profile: Profile = []
    with TemporaryDirectory(prefix="syncd-bench-") as folder:
        stacks = Path(folder) / "stacks"
        spy = subprocess.Popen(
            [*_spy(stacks), "--pid", str(pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield profile
        finally:
            spy.send_signal(signal.SIGINT)  # on which it writes down what it saw
            spy.wait(60)
            profile += _read(stacks)


def _spy(stacks: Path) -> list[str]:
    spy = str(Path(sys.executable).with_name("py-spy"))
    settings = ["--format", "raw", "--rate", str(PROFILE_HZ), "--nolineno"]
    return [spy, "record", *settings, "--output", str(stacks)]


def _read(stacks: Path) -> Profile:
    return flat(stacks.read_text("utf-8")) if stacks.exists() else []


def flat(stacks: str) -> Profile:
    """The innermost functions of collapsed stacks; threads that only wait are left out."""
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        counts[frames.split(";")[-1]] += int(count)
    for waiting in WAITING:
        counts.pop(waiting, None)
    total = max(1, sum(counts.values()))
    return [(function, count / total) for function, count in counts.most_common(TOP)]


def profile_lines(profile: Profile) -> Iterator[str]:
    """It as Markdown; nothing where there is none."""
    if profile:
        yield "Where its time goes (py-spy, innermost functions, waiting left out):"
        yield ""
        yield "```text"
        yield from (f"{share:6.1%}  {function}" for function, share in profile)
        yield "```"
        yield ""
