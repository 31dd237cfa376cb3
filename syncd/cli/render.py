"""Tables and bars: everything of the command line that rich draws."""

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncd.cli.reading import Summary
from syncd.model import printable
from syncd.progress import Meter, Phase, Running, Snapshot
from syncd.progress import size_text as size_text
from syncd.store import FileReport, PassedOver

RATE_WINDOW_S = 10.0

STYLES = {
    "registered": "green", "upload": "cyan", "uploading": "cyan", "queued": "cyan",
    "waiting": "yellow", "needs_sign_in": "yellow", "refused": "red", "conflict": "red",
    "failed": "bold red", "cancelled": "dim", "drift": "red", "unreadable": "red", "incomplete": "yellow",
    "ignored": "dim", "shadowed": "dim",
}  # fmt: skip


UNWRAPPED = 10_000
"""Columns where nobody looks at a terminal: no name is cut in two for whoever searches the text."""


def console() -> Console:
    """Where tables go: as wide as the terminal, or as wide as the text if stdout is none."""
    return Console(width=None if sys.stdout.isatty() else UNWRAPPED)


def duration_text(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_text(at_ms: int) -> str:
    """A moment for people, in the machine's own time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


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
            + (f"   waiting for {now.settling_files} to stand still" if now.settling_files else "")
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


LISTED = 20
"""Files in the catalog that a run lists at its end."""


def summary(
    console: Console,
    said: Summary,
    *,
    unsettled: dict[str, str],
    problems: dict[str, str],
    snapshot: Snapshot | None = None,
) -> None:
    """What a run, or the store, has to say at the end: counts, then whatever is not in the catalog."""
    counts = {state: amount.files for state, amount in said.standing.amounts.items()}
    _registered_table(console, said.registered, counts.get("registered", 0))
    _left_table(console, said.left, unsettled, problems)
    _passed_over_table(console, said.passed_over)
    for hold in said.standing.holds:
        console.print(Text(f"hold ({hold.kind}): {printable(hold.why)}", style="bold red"))
        if hold.advice:
            console.print(Text(f"  {hold.advice}", style="yellow"))
    _last_line(console, counts, unsettled, snapshot)


def activity(console: Console, progress: Mapping[str, Any], now_ms: int) -> None:
    """What a running syncd does now, as its overview document tells it."""
    since = duration_text((now_ms - progress["started_at"]) / 1000)
    left = progress["seconds_left"]
    console.print(
        f"running for {since}: sending {size_text(progress['sent_rate'])}/s, hashing"
        f" {size_text(progress['hashed_rate'])}/s, {size_text(progress['bytes_left'])} to go"
        + ("" if left is None else f", about {duration_text(left)}")
        + (f", waiting for {n} to stand still" if (n := progress["settling_files"]) else "")
    )
    for running in progress["running"]:
        done = running["hashed"] if running["phase"] == Phase.HASHING else running["sent"]
        parts = (
            "" if running["parts"] is None else f" part {running['parts_done']}/{running['parts']}"
        )
        amount = f"{size_text(done)} of {size_text(running['size'])}"
        console.print(Text(f"  {running['path']}: {running['phase']}{parts}, {amount}"))


def blank_table(title: str | None, *columns: str) -> Table:
    """A table without rows, in the one style of all of them."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    return table


def _registered_table(console: Console, files: Sequence[FileReport], total: int) -> None:
    if not files:
        return
    table = blank_table("In the catalog", "model", "size", "sha256", "how")
    for file in files:
        table.add_row(
            Text(file.model_path or file.shown),
            size_text(file.size),
            (file.sha256 or "")[:12],
            "adopted" if file.adopted else "uploaded",
        )
    console.print(table)
    if total > len(files):
        console.print(Text(f"… and {total - len(files)} more: syncd status --all", style="dim"))


def _left_table(
    console: Console,
    files: Sequence[FileReport],
    unsettled: dict[str, str],
    problems: dict[str, str],
) -> None:
    if not files and not unsettled and not problems:
        return
    table = blank_table("Not in the catalog", "file", "size", "state", "why, and what to do")
    for file in files:
        why = ". ".join(text.rstrip(".") for text in (file.why, file.advice) if text)
        table.add_row(
            Text(file.shown),
            size_text(file.size),
            Text(file.state, style=STYLES.get(file.state, "")),
            Text(f"{why}." if why else ""),
        )
    for path, why in problems.items():
        table.add_row(Text(printable(path)), "", Text("unreadable", style="red"), Text(f"{why}."))
    for path, why in unsettled.items():
        table.add_row(Text(printable(path)), "", Text("settling", style="yellow"), Text(why))
    console.print(table)


def _passed_over_table(console: Console, rules: Sequence[PassedOver]) -> None:
    if not rules:
        return
    table = blank_table("Passed over", "files", "why", "for example")
    for rule in rules:
        table.add_row(str(rule.files), Text(rule.why), Text(rule.example))
    console.print(table)


def _last_line(
    console: Console,
    counts: dict[str, int],
    unsettled: dict[str, str],
    snapshot: Snapshot | None,
) -> None:
    if unsettled:
        counts["settling"] = len(unsettled)
    text = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no files"
    if snapshot is not None:
        text += (
            f"; this run: {snapshot.registered_files} registered, {snapshot.adopted_files} adopted, "
            f"{size_text(snapshot.sent)} sent"
        )
    console.print(Text(text, style="bold"))
