"""Tables and bars: everything of the command line that rich draws."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncd.cli.plain import UNWRAPPED
from syncd.cli.tables import Sheet, Styled, Told, right
from syncd.formatting import duration_text, printable, size_text
from syncd.monitoring.progress import Meter, Phase, Running, Snapshot

RATE_WINDOW_S = 10.0


def console() -> Console:
    """Where tables go: as wide as the terminal, or as wide as the text if stdout is none."""
    return Console(width=None if sys.stdout.isatty() else UNWRAPPED)


class Bars:
    """Overall progress, each running file, rate and time left; a fresh picture at each call."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._marks: deque[tuple[float, int, int]] = deque()

    def __rich__(self) -> RenderableType:
        now = self._meter.snapshot()
        sent_rate, hash_rate = self._rates(now)
        files = Table.grid(padding=(0, 1), expand=True)
        files.add_column(ratio=3, overflow="ellipsis", no_wrap=True)
        files.add_column(ratio=2)
        files.add_column(justify="right", no_wrap=True)
        for running in now.running:
            files.add_row(*_running_row(running))
        return Group(self._overall(now, sent_rate, hash_rate), files)

    def _overall(self, now: Snapshot, sent_rate: float, hash_rate: float) -> RenderableType:
        moved = now.finished + sum(_progress(running) for running in now.running)
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        table.add_column(justify="right", no_wrap=True)
        left = max(now.expected - moved, 0)
        eta = duration_text(left / sent_rate) if sent_rate > 0 and left else "-"
        table.add_row(
            f"{now.finished_files}/{now.expected_files} files",
            ProgressBar(total=max(now.expected, 1), completed=min(moved, now.expected)),
            f"{size_text(moved)} of {size_text(now.expected)}",
        )
        note = (
            f"sending {size_text(sent_rate)}/s   hashing {size_text(hash_rate)}/s   left {eta}"
            + (
                f"   waiting for {now.settling_files} to stop changing"
                if now.settling_files
                else ""
            )
        )
        return Group(table, Text(note, style="dim"))

    def _rates(self, now: Snapshot) -> tuple[float, float]:
        """Bytes a second sent and hashed over the last seconds."""
        at = time.monotonic()
        self._marks.append((at, now.sent, now.hashed))
        while at - self._marks[0][0] > RATE_WINDOW_S:
            self._marks.popleft()
        then, sent, hashed = self._marks[0]
        span = max(at - then, 0.001)
        return (now.sent - sent) / span, (now.hashed - hashed) / span


def _progress(running: Running) -> int:
    return min(running.sent, running.size)


def _running_row(running: Running) -> Sequence[RenderableType]:
    hashing = running.phase is Phase.HASHING
    done = running.hashed if hashing else running.sent
    bar = ProgressBar(
        total=max(running.size, 1), completed=done, complete_style="magenta" if hashing else "cyan"
    )
    parts = "" if running.parts is None else f" part {running.parts_done}/{running.parts}"
    name = Text(f"  {printable(running.rel_path)}")
    return name, bar, f"{running.phase}{parts} {size_text(done)}/{size_text(running.size)}"


def drawn(meter: Meter, console: Console) -> Live:
    """The bars on *console*, drawn by a thread of their own while the context is open."""
    return Live(Bars(meter), console=console, refresh_per_second=8, transient=True)


def show(console: Console, told: Iterable[Told]) -> None:
    """Draw sheets and lines."""
    for each in told:
        if isinstance(each, Sheet):
            console.print(_table(each))
        else:
            console.print(each.text if each.style is None else Text(each.text, style=each.style))


def _table(sheet: Sheet) -> Table:
    table = blank_table(sheet.title, *sheet.columns)
    for row in sheet.rows:
        table.add_row(*(Text(*cell) if isinstance(cell, Styled) else Text(cell) for cell in row))
    return table


def blank_table(title: str | None, *columns: str) -> Table:
    """A table without rows, in the one style of all of them."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if right(column) else "left", overflow="fold")
    return table
