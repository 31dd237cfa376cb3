"""A run whose tests lack a program passes, and its last line says that it is incomplete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


def pytest_without_tools(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A run of this project's tests where no program is on the PATH."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=TOP, env={"PATH": os.fspath(tmp_path), "HOME": os.fspath(tmp_path)},
        text=True, capture_output=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("processes", ["0", "1"])
def test_run_without_a_tool_passes_and_its_last_line_says_it_is_incomplete(
    tmp_path: Path, processes: str
) -> None:
    done = pytest_without_tools(
        tmp_path, "-n", processes, "tests/unit/test_reference.py", "-k", "page"
    )

    *_, counted, _, listed, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert "2 skipped" in counted
    assert listed.split() == ["2", "groff"]
    assert last == (
        "INCOMPLETE: 2 skipped, for lack of groff. To run them: sudo apt-get install groff."
    )


def test_run_that_skips_nothing_ends_as_usual(tmp_path: Path) -> None:
    done = pytest_without_tools(tmp_path, "tests/unit/test_settling.py")

    assert done.returncode == 0, done.stdout
    assert "INCOMPLETE" not in done.stdout
