"""Measure processes: a command from start to end, or a process that keeps running."""

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

from bench.scenario import report_progress

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
    """A command to measure."""

    arguments: list[str]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Return this process's environment with the command's additions."""
        return {**os.environ, **self.env}

    def within(self, *words: str) -> "Command":
        """Return the same command, started through another one."""
        return Command([*words, *self.arguments], self.env)


@dataclass(frozen=True, slots=True)
class Measurement:
    """
    One run of a command: time and CPU seconds, and bytes.

    ``resident`` is the maximum resident size. ``read`` counts bytes from read calls, mostly of
    files; ``read_from_disk`` counts those that were not in the page cache.
    """

    wall_s: float
    cpu_s: float
    resident: int
    read: int
    read_from_disk: int


def timed(name: str, command: Command, output: Path | None = None) -> Measurement:
    """
    Run the command once and measure it; write its output to *output* if that is given.

    Raises:
        SystemExit: It failed; the message contains its output.
    """
    with TemporaryFile("w+") as measured:
        result = subprocess.run(
            ["sh", "-c", 'exec "$@" 3>&0 <&-', "sh", sys.executable, "-m", "bench.meter",
             *command.arguments],
            env=command.environment,
            stdin=measured,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        if result.returncode:
            text = result.stdout.decode(errors="replace")
            raise SystemExit(f"{name} failed:\n{text[-4000:]}")
        if output is not None:
            output.write_bytes(result.stdout)
        measured.seek(0)
        return Measurement(**json.load(measured))


def drop_cached(path: Path) -> None:
    """Remove the file from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def cached(path: Path) -> int:
    """Return how many bytes of the file are in the page cache."""
    result = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(result.stdout)


# -- running processes --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and wake-ups of a process so far, and its resident bytes now."""

    cpu_s: float
    wakeups: int
    resident: int


def usage(pid: int) -> Usage:
    """Read the usage of a process; wake-ups are voluntary context switches of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    wakeups = sum(
        _status(task, "voluntary_ctxt_switches") for task in Path(f"/proc/{pid}/task").iterdir()
    )
    cpu_s = (int(fields[11]) + int(fields[12])) * TICKS_S
    return Usage(cpu_s, wakeups, _status(Path(f"/proc/{pid}"), "VmRSS") * 1024)


def most_resident(pid: int) -> int:
    """Return the maximum resident size so far, in bytes."""
    return _status(Path(f"/proc/{pid}"), "VmHWM") * 1024


def _status(process: Path, name: str) -> int:
    for line in (process / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


@contextmanager
def running(command: Command, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command in the background with its output in a file; end it with SIGTERM."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command.arguments, env=command.environment, stdout=file, stderr=file
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


def events(output: Path, name: str) -> list[dict[str, object]]:
    """Return the log lines of one event so far."""
    mark = f'"event": "{name}"'
    with output.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if mark in line and line.endswith("}\n")]


def wait_for(
    output: Path, name: str, process: subprocess.Popen[bytes], within_s: float = 600
) -> None:
    """
    Wait until the event is logged.

    Raises:
        SystemExit: The process ended, or the wait took longer than *within_s*.
    """
    until_s = time.monotonic() + within_s
    while not events(output, name):
        if process.poll() is not None or time.monotonic() > until_s:
            text = output.read_text("utf-8", "replace")
            raise SystemExit(f"{name} was not logged:\n{text[-4000:]}")
        time.sleep(0.1)


# -- profiles ----------------------------------------------------------------------------------------

Profile = list[tuple[str, float]]
"""Functions with their share of all samples, largest first."""


def profiled(name: str, command: Command) -> Profile:
    """Run the command once more under py-spy and return its profile."""
    report_progress(f"profile of {name} ...")
    with TemporaryDirectory(prefix="syncd-bench-") as folder:
        stacks = Path(folder) / "stacks"
        spy = command.within(*_spy(stacks), "--")
        subprocess.run(spy.arguments, env=command.environment, capture_output=True)
        return _read(stacks)


@contextmanager
def spied(name: str, pid: int) -> Iterator[Profile]:
    """Profile a running process during the block; the list is filled at the end of the block."""
    report_progress(f"profile of {name} ...")
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
            spy.send_signal(signal.SIGINT)  # py-spy then writes its samples
            spy.wait(60)
            profile += _read(stacks)


def _spy(stacks: Path) -> list[str]:
    spy = str(Path(sys.executable).with_name("py-spy"))
    settings = ["--format", "raw", "--rate", str(PROFILE_HZ), "--nolineno"]
    return [spy, "record", *settings, "--output", str(stacks)]


def _read(stacks: Path) -> Profile:
    return flat(stacks.read_text("utf-8")) if stacks.exists() else []


def flat(stacks: str) -> Profile:
    """Count the innermost functions of collapsed stacks, without waiting threads."""
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        counts[frames.split(";")[-1]] += int(count)
    for waiting in WAITING:
        counts.pop(waiting, None)
    total = max(1, sum(counts.values()))
    return [(function, count / total) for function, count in counts.most_common(TOP)]


def profile_lines(profile: Profile) -> Iterator[str]:
    """Format the profile as Markdown; yield nothing if it is empty."""
    if profile:
        yield "Profile (py-spy, innermost functions, without waiting):"
        yield ""
        yield "```text"
        yield from (f"{share:6.1%}  {function}" for function, share in profile)
        yield "```"
        yield ""
