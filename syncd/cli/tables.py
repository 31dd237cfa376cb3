"""
Tables and lines as text, for every command.

Written without rich, whose import takes longer than everything else that ``syncd status`` does. All
texts must be printable (``formatting.printable``).
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

STYLES = {
    "registered": "green", "upload": "cyan", "uploading": "cyan", "queued": "cyan",
    "waiting": "yellow", "needs_sign_in": "yellow", "refused": "red", "conflict": "red",
    "failed": "bold red", "cancelled": "dim", "drift": "red", "unreadable": "red", "incomplete": "yellow",
    "settling": "yellow", "ignored": "dim", "shadowed": "dim", "ok": "green", "warning": "yellow",
    "skipped": "dim",
}  # fmt: skip
"""Style of a state, an action or the result of a check."""

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_GAP = "  "
_RIGHT = frozenset({"size", "files"})  # columns that are aligned to the right
_WRAP_LEAST = 24  # columns that the terminal must leave for the last column if it is wrapped


class Cell(NamedTuple):
    """A table cell; ``style`` is one or more words, such as ``bold red``."""

    text: str
    style: str = ""


class Table(NamedTuple):
    title: str | None
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


class Line(NamedTuple):
    text: str
    style: str = ""


Item = Table | Line


def state_cell(state: str) -> Cell:
    """The name of a state in its color."""
    return Cell(state, STYLES.get(state, ""))


def show(items: Iterable[Item]) -> None:
    """Print to stdout, on a terminal in its width and in color."""
    import shutil  # slow to import, and not needed by the fast path

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    color = sys.stdout.isatty() or "FORCE_COLOR" in os.environ
    if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        color = False
    sys.stdout.write(render(items, width=width, color=color))
    sys.stdout.flush()


def render(items: Iterable[Item], *, width: int | None = None, color: bool = False) -> str:
    """
    Format *items*, one or more lines each.

    Args:
        width: Columns of the terminal, into which the last column of a table is wrapped; None: no limit.
    """
    lines: list[str] = []
    for item in items:
        if isinstance(item, Table):
            lines += _table(item, width, color)
        else:
            lines.append(_styled(item.text, item.style, color))
    return "".join(f"{line}\n" for line in lines)


def display_width(text: str) -> int:
    """Return the number of terminal columns that *text* takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def _styled(text: str, style: str, color: bool) -> str:
    if not (color and style and text):
        return text
    return f"\x1b[{';'.join(_CODES[word] for word in style.split())}m{text}\x1b[0m"


def _table(table: Table, width: int | None, color: bool) -> Iterator[str]:
    rows = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in table.rows]
    rows.insert(0, [Cell(column, "bold") for column in table.columns])
    widths = [
        max(display_width(cell.text) for cell in column) for column in zip(*rows, strict=True)
    ]
    room = None if width is None else width - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1)
    if table.title:
        yield _styled(table.title, "bold", color)
    for row in rows:
        first = row[:-1]
        for text in _wrapped(row[-1].text, room):
            yield _row([*first, Cell(text, row[-1].style)], table.columns, widths, color)
            first = [Cell("")] * len(first)


def _row(cells: Sequence[Cell], columns: Sequence[str], widths: Sequence[int], color: bool) -> str:
    padded = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        space = " " * (width - display_width(cell.text))
        text = _styled(cell.text, cell.style, color)
        padded.append(space + text if column in _RIGHT else text + space)
    return _GAP.join(padded).rstrip()


def _wrapped(text: str, width: int | None) -> list[str]:
    """Break *text* at spaces into lines of at most *width* columns; a longer word is kept whole."""
    if width is None or width < _WRAP_LEAST or display_width(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        candidate = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and display_width(candidate) > width:
            lines.append(word)
        else:
            lines[-1] = candidate
    return lines
