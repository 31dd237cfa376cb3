"""Every cell of the page's matrix that is not a dot has a test of its name, and no other has one."""

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("matrix.md")
PHASES = ("watch", "settle", "hash", "presign", "part", "complete", "register", "commit")
COLLECT = (
    "-m", "pytest", "--collect-only", "-qq", "-p", "tests.matrix.collecting", "-p", "no:cacheprovider",
    "tests/matrix", "tests/integration", "tests/crash",
)  # fmt: skip


def cells() -> dict[str, str]:
    """What the page says in each cell, by name, dots among them."""
    rows = (line.strip("|\n ").split("|") for line in PAGE.read_text("utf-8").splitlines())
    faults = [row for row in rows if len(row) == 2 + len(PHASES) and row[0].strip().isdecimal()]
    return {
        f"F{int(number):02}-{phase}": letters.strip()
        for number, _, *row in faults
        for phase, letters in zip(PHASES, row, strict=True)
    }


def marked() -> set[str]:
    """The cells that tests are marked with."""
    run = subprocess.run(
        [sys.executable, *COLLECT], cwd=PROJECT, check=True, capture_output=True, text=True
    )
    return set(re.findall(r"^cell (\S+)$", run.stdout, re.MULTILINE))


def test_every_cell_has_a_test_of_its_name_and_no_dot_has_one() -> None:
    wanted = {name for name, letters in cells().items() if letters != "."}
    tested = marked()

    assert len(wanted) == 192
    assert tested - wanted == set()
    assert wanted - tested == set()
