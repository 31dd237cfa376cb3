"""
Plants known bugs, one at a time, and checks that the tests named for each of them fail.

A patch begins with three lines: ``what:`` the mistake is, ``layer:`` that must catch it, and
``tests:`` as pytest is told them, with ``NAME=value`` for the environment in front.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

PROJECT = Path(__file__).parents[2]
PATCHES = Path(__file__).parent
COPIED = ("syncd", "tests", "docs", "pyproject.toml", "config.example.toml", "README.md")
DEADLINE_S = 600
TESTS_FAILED = 1
"""Pytest's exit code; others mean that no test was run, and nothing was caught."""


@dataclass(frozen=True, slots=True)
class Plant:
    """A patch, and what must catch it."""

    path: Path
    what: str
    layer: str
    tests: str

    @classmethod
    def read(cls, path: Path) -> "Plant":
        """The patch at *path*."""
        lines = path.read_text("utf-8").splitlines()[:3]
        named = dict(line.split(": ", 1) for line in lines)
        return cls(path, named["what"], named["layer"], named["tests"])

    def command(self) -> tuple[dict[str, str], list[str]]:
        """Environment and arguments of the tests."""
        words = shlex.split(self.tests)
        settings = [word for word in words if word.partition("=")[0].isupper()]
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
    command = ["git", "apply", "--recount", os.fspath(plant.path)]
    subprocess.run(command, cwd=copy, env=env, check=True, capture_output=True, text=True)


def caught(plant: Plant) -> bool:
    """Do the tests that are named fail with the mistake in the program?"""
    settings, tests = plant.command()
    with TemporaryDirectory(prefix="planted-") as folder:
        copy = copied(Path(folder))
        apply(plant, copy)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=copy,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    if done.returncode not in (0, TESTS_FAILED):
        raise RuntimeError(f"{plant.path.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == TESTS_FAILED


def rows(names: list[str]) -> Iterator[bool]:
    """Plant those whose names begin so, or all; a line each."""
    for plant in plants():
        if names and not plant.path.name.startswith(tuple(names)):
            continue
        started_s = time.monotonic()
        good = caught(plant)
        seconds = time.monotonic() - started_s
        verdict = "caught" if good else "MISSED"
        print(f"{verdict}  {plant.layer:<4} {seconds:5.1f} s  {plant.what}", flush=True)
        yield good


def main(names: list[str]) -> int:
    """The exit code: 0 if every mistake was caught."""
    results = list(rows(names))
    print(f"{sum(results)} of {len(results)} planted bugs caught")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
