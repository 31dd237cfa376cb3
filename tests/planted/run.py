"""
Plants known bugs, one at a time, and checks that the tests named for each of them fail.

``bugs.toml`` lists them: the lines that change, and the tests of the layer that must catch the bug,
as arguments of pytest after ``NAME=value`` pairs for the environment. A bug is found by its lines,
wherever they are in syncd. The same tests must pass without it (the control).
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

PROJECT = Path(__file__).parents[2]
BUGS = Path(__file__).with_name("bugs.toml")
COPIED = ("syncd", "tests", "docs", "pyproject.toml", "config.example.toml", "README.md")
AT_ONCE = 2
DEADLINE_S = 180.0
MEMORY = Path("/dev/shm")
"""Nothing here is about a disk: those tests bring their own."""

SETTING = re.compile(r"[A-Z_]+=")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
"""The test that failed, as pytest sums up."""
PASSED, TESTS_FAILED = 0, 1
"""Pytest's exit codes; others mean that no test was run, and nothing was shown."""


@dataclass(frozen=True, slots=True)
class Plant:
    """One bug: the lines *before*, the lines *after*, and the tests that must catch it."""

    name: str
    what: str
    tests: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Tried:
    """A run of some tests: the first that failed, or what kept them from being run; seconds."""

    failed: str | None
    seconds: float
    trouble: str | None = None


def command(tests: str) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments of *tests*, the file first."""
    words = shlex.split(tests)
    settings = [word for word in words if SETTING.match(word)]
    return dict(word.split("=", 1) for word in settings), words[len(settings) :]


def plants() -> list[Plant]:
    """All of them, by name."""
    listed = tomllib.loads(BUGS.read_text("utf-8"))
    return [Plant(name, **bug) for name, bug in sorted(listed.items())]


def copied(folder: Path) -> Path:
    """A copy of the program and its tests."""
    copy = folder / "copy"
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    return copy


def apply(plant: Plant, copy: Path) -> None:
    """
    Plant the bug in *copy*.

    Raises:
        ValueError: The lines before it are not in exactly one place of syncd.
    """
    found = list(places(plant, copy))
    if len(found) != 1:
        raise ValueError(f"{plant.name}: its lines are in {len(found)} places: edit bugs.toml")
    path, start, indent = found[0]
    lines = path.read_text("utf-8").splitlines()
    end = start + len(plant.before.splitlines())
    lines[start:end] = [indent + line for line in plant.after.splitlines()]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def places(plant: Plant, folder: Path) -> Iterator[tuple[Path, int, str]]:
    """Yield where the lines *before* are: a module, the index of the first, their indentation."""
    wanted = plant.before.splitlines()
    for path in folder.glob("syncd/**/*.py"):
        lines = path.read_text("utf-8").splitlines()
        for start, indent in _starts(lines, wanted):
            yield path, start, indent


def _starts(lines: list[str], wanted: list[str]) -> Iterator[tuple[int, str]]:
    for start, line in enumerate(lines):
        indent = line.removesuffix(wanted[0])
        if line.endswith(wanted[0]) and not indent.strip():
            found = lines[start : start + len(wanted)]
            if found == [indent + line if line else "" for line in wanted]:
                yield start, indent


def tried(tests: str, plant: Plant | None = None) -> Tried:
    """Run *tests* on a copy of the program, with the mistake in it, or without as a control."""
    started_s = time.monotonic()
    failed = trouble = None
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with TemporaryDirectory(prefix="planted-", dir=memory) as folder:
        copy = copied(Path(folder))
        try:
            if plant is not None:
                apply(plant, copy)
            failed = first_failed(tests, copy, Path(folder, "tmp"))
        except ValueError as error:
            trouble = str(error)
        except subprocess.CalledProcessError as error:
            last = error.output.strip().splitlines()[-1]
            trouble = f"pytest ended with {error.returncode}: {last}"
        except subprocess.TimeoutExpired:
            trouble = f"no end within {DEADLINE_S:.0f} s"
    return Tried(failed, time.monotonic() - started_s, trouble)


def first_failed(tests: str, copy: Path, scratch: Path) -> str | None:
    """
    Run *tests* in *copy*; nothing that they started outlives them. The first that failed, if any.

    Raises:
        subprocess.CalledProcessError: No test was run.
        subprocess.TimeoutExpired: They came to no end.
    """
    settings, arguments = command(tests)
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=copy,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    failed = FAILED.search(said)
    if process.returncode == PASSED:
        return None
    if process.returncode != TESTS_FAILED or failed is None:
        raise subprocess.CalledProcessError(process.returncode, process.args, said)
    return failed[1]


def verdict(plant: Tried, control: Tried) -> tuple[bool, str]:
    """Whether the bug was caught: the tests fail with it and pass without; and what to print."""
    if control.failed or control.trouble:
        return False, f"NO CONTROL: {control.trouble or control.failed}"
    if plant.failed is None:
        return False, f"MISSED {plant.trouble or ''}".rstrip()
    return True, plant.failed


def rows(chosen: list[Plant]) -> Iterator[bool]:
    """Plant them, some at once; a line each, and whether it was caught."""
    controls: dict[str, Future[Tried]] = {}
    planted: list[Future[Tried]] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for plant in chosen:
            if plant.tests not in controls:
                controls[plant.tests] = pool.submit(tried, plant.tests)
            planted.append(pool.submit(tried, plant.tests, plant))
        try:
            for plant, future in zip(chosen, planted, strict=True):
                result, control = future.result(), controls[plant.tests].result()
                caught, shown = verdict(result, control)
                print(f"{plant.name:<24}{result.seconds:6.1f} s  {shown}", flush=True)
                yield caught
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def main(names: list[str]) -> int:
    """Plant those whose names begin so, or all; the exit code: 0 if every one was caught."""
    chosen = [p for p in plants() if not names or p.name.startswith(tuple(names))]
    print(f"{'planted bug':<24}{'took':>8}  caught by", flush=True)
    results = list(rows(chosen))
    print(f"{sum(results)} of {len(results)} planted bugs caught")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
