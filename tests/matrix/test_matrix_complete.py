"""
Every cell, retry row and promise has a test of its name.

The cells and the retry rows stand in ``matrix.md``, the promises in ``docs/reliability.md``. A cell
is named by a mark, a row or a promise by its number in the test's name (``test_R07_...``).
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("matrix.md")
PROMISES = PROJECT / "docs/reliability.md"
PHASES = ("watch", "settle", "hash", "presign", "part", "complete", "register", "commit")
COLLECT = (
    "-m", "pytest", "--collect-only", "-qq", "-p", "tests.matrix.collecting", "-p", "no:cacheprovider",
    "tests",
)  # fmt: skip
FEWEST_CELLS, ALL_ROWS, FEWEST_PROMISES = 190, 33, 34


@pytest.fixture(scope="module")
def collected() -> str:
    """What the plugin prints of all tests."""
    return subprocess.run(
        [sys.executable, *COLLECT], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout


def table_rows(page: Path) -> list[list[str]]:
    """The cells of every line of a table in *page*."""
    lines = page.read_text("utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in lines
        if line.startswith("|")
    ]


def cells() -> dict[str, str]:
    """What the page says in each cell, by name, dots among them."""
    return {
        f"F{int(number):02}-{phase}": letters
        for number, _, *row in table_rows(PAGE)
        if number.isdecimal() and len(row) == len(PHASES)
        for phase, letters in zip(PHASES, row, strict=True)
    }


def retry_rows() -> set[str]:
    """The numbers of the retry table: kind, exactly, request, then."""
    return {
        f"R{int(row[0]):02}" for row in table_rows(PAGE) if row[0].isdecimal() and len(row) == 5
    }


def promises() -> set[str]:
    return {
        f"I{int(row[0][1:]):02}" for row in table_rows(PROMISES) if re.fullmatch(r"I[0-9]+", row[0])
    }


def numbers_in_names(collected: str, letter: str) -> set[str]:
    """The numbers after *letter* in the names of all tests and of their classes."""
    names = re.findall(r"^test (\S+)$", collected, re.MULTILINE)
    named = re.compile(rf"(?:_|Test)({letter}[0-9]{{2}})(?![0-9])")
    return {number for name in names for number in named.findall(name)}


def test_every_cell_has_a_test_of_its_name_and_no_dot_has_one(collected: str) -> None:
    wanted = {name for name, letters in cells().items() if letters != "."}
    tested = set(re.findall(r"^cell (\S+)$", collected, re.MULTILINE))

    assert len(wanted) > FEWEST_CELLS
    assert tested - wanted == set()
    assert wanted - tested == set()


def test_every_retry_row_has_a_test_of_its_name(collected: str) -> None:
    assert len(retry_rows()) == ALL_ROWS
    assert numbers_in_names(collected, "R") == retry_rows()


def test_every_promise_has_a_test_of_its_name(collected: str) -> None:
    assert len(promises()) >= FEWEST_PROMISES
    assert numbers_in_names(collected, "I") == promises()
