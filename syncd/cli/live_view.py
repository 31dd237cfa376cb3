"""``syncd status --watch``: the overview document of a running syncd, as a screen."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncd.cli.tables import STYLES
from syncd.formatting import duration_text, size_text

SPARKS = " ▁▂▃▄▅▆▇█"
STORED, SOME, MISSING = "█", "▒", "·"

RUNNING_SHOWN = 6
TRIES_SHOWN = 4

Document = Mapping[str, Any]


def watch(documents: Iterable[Document], console: Console) -> None:
    """Show each document in the place of the one before, until there are no more."""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for document in documents:
            live.update(picture(document, time.time_ns() // 1_000_000), refresh=True)


def picture(document: Document, now_ms: int) -> RenderableType:
    """Everything that a person who waits wants to see, what is most urgent first."""
    rows: list[RenderableType] = [_headline(document, now_ms)]
    rows += _holds(document["holds"], now_ms)
    rows += [_overall(document), *_pace(document["progress"]), _counts(document, now_ms), Text()]
    rows += _at_work(document["progress"]["running"])
    rows += _next_tries(document["next_tries"], now_ms)
    rows.append(Text("Ctrl-C ends this screen, not syncd", style="dim"))
    return Group(*rows)


def _headline(document: Document, now_ms: int) -> Text:
    progress = document["progress"]
    since_s = (now_ms - progress["started_at"]) / 1000
    roots = ", ".join(root["path"] for root in document["roots"])
    text = f"syncd {progress['version']} runs for {duration_text(since_s)} on {roots}"
    return Text(text, style="bold", no_wrap=True, overflow="ellipsis")


def _holds(holds: Sequence[Document], now_ms: int) -> Iterator[Text]:
    for hold in holds:
        since = duration_text((now_ms - hold["since"]) / 1000)
        style = "bold red" if hold["needs_person"] else "bold yellow"
        yield Text(f"{hold['kind']} for {since}: {hold['reason']}", style=style)
        if hold["advice"]:
            yield Text(f"  {hold['advice']}", style="yellow")


def _overall(document: Document) -> RenderableType:
    files, sizes, progress = (
        document["files_by_state"], document["bytes_by_state"], document["progress"],
    )  # fmt: skip
    there, left = sizes.get("registered", 0), progress["bytes_left"]
    under_way = sum(min(each["sent"], each["size"]) for each in progress["running"])
    todo = sum(files.get(state, 0) for state in ("queued", "waiting", "uploading"))
    table = _grid()
    done, total = there + under_way, there + under_way + left
    table.add_row(
        f"{files.get('registered', 0)} files in the catalog, {todo} to go",
        ProgressBar(total=max(total, 1), completed=done, complete_style="cyan"),
        f"{size_text(done)} of {size_text(total)}",
    )
    return table


def _pace(progress: Document) -> Iterator[RenderableType]:
    left = progress["seconds_left"]
    text = f"sending {size_text(progress['sent_rate'])}/s"
    if progress["bandwidth"] is not None:
        text += f" (limit {size_text(progress['bandwidth'])}/s)"
    text += f"   hashing {size_text(progress['hashed_rate'])}/s"
    text += f"   left {'-' if left is None else duration_text(left)}"
    yield Text(text)
    beats = progress["sent_beats"]
    if any(beats):
        over = duration_text(len(beats) * progress["beat_s"])
        most = size_text(max(beats) / progress["beat_s"])
        line = Text(sparkline(beats), style="cyan", no_wrap=True)
        yield line.append(f"  sent over {over}, at most {most}/s", style="dim")


def sparkline(values: Sequence[int]) -> str:
    """One character a value, as high as it is beside the largest; any bytes at all show."""
    most = max(values, default=0) or 1
    steps = len(SPARKS) - 1
    return "".join(SPARKS[-(-value * steps // most)] for value in values)


def _counts(document: Document, now_ms: int) -> Text:
    states = [
        (state, count) for state, count in document["files_by_state"].items()
        if count and state not in ("registered", "ignored")
    ]  # fmt: skip
    if settling := document["progress"]["settling_files"]:
        states.append(("settling", settling))
    text = Text()
    for state, count in states:
        text.append(f"{count} {state}   ", style=STYLES.get(state, ""))
    success_at = document["last_success_at"]
    if success_at is not None:
        text.append(f"last success {duration_text((now_ms - success_at) / 1000)} ago", style="dim")
    return text


def _at_work(running: Sequence[Document]) -> Iterator[RenderableType]:
    for each in running[:RUNNING_SHOWN]:
        hashing = each["phase"] == "hashing"
        done = each["hashed"] if hashing else min(each["sent"], each["size"])
        table = _grid(ratio=2)
        table.add_row(
            Text(each["path"]),
            ProgressBar(
                total=max(each["size"], 1),
                completed=done,
                complete_style="magenta" if hashing else "cyan",
            ),
            f"{each['phase']} {size_text(done)} of {size_text(each['size'])}",
        )
        yield table
        if each["parts"] is not None:
            yield _Parts(each)
    if len(running) > RUNNING_SHOWN:
        yield Text(f"… and {len(running) - RUNNING_SHOWN} more", style="dim")


class _Parts:
    """A cell for each part, or for several of them where there are more than columns."""

    def __init__(self, running: Document) -> None:
        self._running = running

    def __rich_console__(self, console: Console, options: Any) -> Iterator[Text]:
        note = f"  {self._running['parts_done']} of {self._running['parts']} parts "
        cells = part_cells(self._running, max(options.max_width - len(note), 10))
        line = Text(note, style="dim", no_wrap=True)
        styles = {STORED: "green", MISSING: "dim"}
        for cell, same in groupby(cells):
            line.append("".join(same), style=styles.get(cell, "cyan"))
        yield line


def part_cells(running: Document, most: int) -> str:
    """
    At most so many cells for the parts: stored, missing, partly stored, or how far it got on the wire.
    """
    parts = running["parts"]
    stored = {n for first, last in running["parts_stored"] for n in range(first, last + 1)}
    part_size = max(-(-running["size"] // parts), 1)
    on_wire = {int(n): sent / part_size for n, sent in running["parts_on_wire"].items()}
    each = -(-parts // most)
    return "".join(
        _cell(range(first, min(first + each, parts + 1)), stored, on_wire)
        for first in range(1, parts + 1, each)
    )


def _cell(numbers: range, stored: set[int], on_wire: Mapping[int, float]) -> str:
    held = sum(number in stored for number in numbers)
    if held == len(numbers):
        return STORED
    if len(numbers) == 1 and numbers[0] in on_wire:
        return SPARKS[1 + min(int(on_wire[numbers[0]] * 7), 6)]
    return SOME if held or any(number in on_wire for number in numbers) else MISSING


def _next_tries(tries: Sequence[Document], now_ms: int) -> Iterator[RenderableType]:
    if not tries:
        return
    yield Text()
    yield Text("Tried again", style="bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=40)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for each in tries[:TRIES_SHOWN]:
        wait_s = (each["run_after"] - now_ms) / 1000
        when = f"in {duration_text(wait_s)}" if wait_s > 0 else "soon"
        reason = f"{each['reason'] or ''} (after {each['attempt']})"
        table.add_row(f"  {when}", Text(each["path"]), Text(reason, style="yellow"))
    yield table


def _grid(ratio: int = 1) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio if ratio > 1 else None)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    return table
