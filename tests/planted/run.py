"""
Plants known bugs, one at a time, and checks that the tests named for each of them fail.

A patch begins with two lines: ``what:`` the mistake is, and ``tests:`` of the layer that must catch
it, as pytest is told them, with ``NAME=value`` for the environment in front. The same tests must
pass without the mistake (the control), or their failing tells nothing.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.layers import layer_at

PROJECT = Path(__file__).parents[2]
PATCHES = Path(__file__).parent
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
    """A patch, and what must catch it."""

    path: Path
    what: str
    tests: str

    @classmethod
    def read(cls, path: Path) -> "Plant":
        """The patch at *path*."""
        lines = path.read_text("utf-8").splitlines()[:2]
        named = dict(line.split(": ", 1) for line in lines)
        return cls(path, named["what"], named["tests"])

    @property
    def layer(self) -> str | None:
        """Whose tests must catch it."""
        return layer_at(command(self.tests)[1][0])


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
    return [Plant.read(path) for path in sorted(PATCHES.glob("*.patch"))]


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
    Make the mistake in *copy*.

    Raises:
        subprocess.CalledProcessError: The code has changed, and the patch does not fit any more.
    """
    # Not a repository: else git would take paths from its top.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": os.fspath(copy.parent)}
    patch = ["git", "apply", "--recount", os.fspath(plant.path)]
    subprocess.run(patch, cwd=copy, env=env, check=True, capture_output=True, text=True)


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
        except subprocess.CalledProcessError as error:
            trouble = "the patch does not fit" if error.cmd[0] == "git" else said_last(error)
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


def said_last(error: subprocess.CalledProcessError) -> str:
    """Why pytest ran no test."""
    return f"pytest ended with {error.returncode}: {error.output.strip().splitlines()[-1]}"


def is_caught(plant: Tried, control: Tried) -> bool:
    """Do the tests fail with the mistake, and pass without it?"""
    return plant.failed is not None and (control.failed, control.trouble) == (None, None)


def verdict(plant: Tried, control: Tried) -> str:
    """What the two runs show."""
    if control.failed or control.trouble:
        return f"NO CONTROL: {control.trouble or name_of(control.failed or '')}"
    if plant.failed is None:
        return f"MISSED {plant.trouble or ''}".rstrip()
    return f"{layer_at(plant.failed.partition('::')[0]):<7}{name_of(plant.failed)}"


def name_of(test: str) -> str:
    """Of a test's path and name, the name."""
    return test.partition("::")[2] or test


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
                shown = verdict(result, control)
                print(f"{plant.path.stem:<24}{result.seconds:6.1f} s  {shown}", flush=True)
                yield is_caught(result, control)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def main(names: list[str]) -> int:
    """Plant those whose names begin so, or all; the exit code: 0 if every one was caught."""
    chosen = [p for p in plants() if not names or p.path.name.startswith(tuple(names))]
    print(f"{'planted bug':<24}{'took':>8}  caught by", flush=True)
    results = list(rows(chosen))
    print(f"{sum(results)} of {len(results)} planted bugs caught")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
