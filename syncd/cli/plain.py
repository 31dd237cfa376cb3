"""
Sheets and lines as text, for a script: what ``render`` makes of them where nobody looks.

Importing rich takes longer than everything else that a quick command does. A test holds the two to
the same bytes.
"""

from collections.abc import Iterable, Iterator

from syncd.cli.tables import Line, Sheet, Styled, Told, right

UNWRAPPED = 10_000
"""Columns where nobody looks at a terminal: no name is cut in two for whoever searches the text."""

GAP = "  "


class Unfit(ValueError):
    """It takes somebody who knows how wide each character is."""


def text(told: Iterable[Told]) -> str:
    """
    Each on lines of its own.

    Raises:
        Unfit: A cell is not ASCII, or something does not fit into ``UNWRAPPED`` columns.
    """
    lines = [line for each in told for line in _lines(each)]
    if any(2 * len(line) > UNWRAPPED or not line.isprintable() for line in lines):
        raise Unfit
    return "".join(f"{line}\n" for line in lines)


def _lines(told: Told) -> Iterator[str]:
    return iter([told.text]) if isinstance(told, Line) else _table(told)


def _table(sheet: Sheet) -> Iterator[str]:
    rows = [sheet.columns, *([_text(cell) for cell in row] for row in sheet.rows)]
    if not all(cell.isascii() for row in rows for cell in row):
        raise Unfit
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if len(sheet.title) > (whole := sum(widths) + len(GAP) * (len(widths) - 1)):
        raise Unfit
    yield sheet.title.ljust(whole)
    for row in rows:
        yield GAP.join(
            # Of what stands at the right rich drops the spaces behind it.
            cell.rstrip().rjust(width) if right(column) else cell.ljust(width)
            for cell, width, column in zip(row, widths, sheet.columns, strict=True)
        )


def _text(cell: str | Styled) -> str:
    return cell.text if isinstance(cell, Styled) else cell
