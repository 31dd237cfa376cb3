"""The live screens of ``syncd status --watch`` and of a ``--once`` run."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncd.cli.tables import STYLES
from syncd.formatting import duration_text, size_text
from syncd.monitoring.progress import Meter
from syncd.monitoring.status import NOTHING, progress_of

RUNNING_SHOWN = 6
TRIES_SHOWN = 4

Document = Mapping[str, Any]


def watch(documents: Iterable[Document]) -> None:
    """Show the latest status document until *documents* ends."""
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        for document in documents:
            live.update(picture(document, time.time_ns() // 1_000_000), refresh=True)


def picture(document: Document, now_ms: int) -> RenderableType:
    """Return the screen for a status document, the most urgent rows first."""
    rows: list[RenderableType] = [_headline(document, now_ms)]
    rows += _holds(document["holds"], now_ms)
    rows += [_totals(document), _rates(document["progress"]), _counts(document, now_ms), Text()]
    rows += _running(document["progress"]["running"])
    rows += _next_tries(document["next_tries"], now_ms)
    rows.append(Text("Ctrl-C closes this screen; syncd keeps running", style="dim"))
    return Group(*rows)


def _headline(document: Document, now_ms: int) -> Text:
    progress = document["progress"]
    since_s = (now_ms - progress["started_at"]) / 1000
    roots = ", ".join(root["path"] for root in document["roots"])
    text = f"syncd {progress['version']} running for {duration_text(since_s)} on {roots}"
    return Text(text, style="bold", no_wrap=True, overflow="ellipsis")


def _holds(holds: Sequence[Document], now_ms: int) -> Iterator[Text]:
    for hold in holds:
        since = duration_text((now_ms - hold["since"]) / 1000)
        style = "bold red" if hold["needs_operator"] else "bold yellow"
        yield Text(f"{hold['kind']} for {since}: {hold['reason']}", style=style)
        if hold["advice"]:
            yield Text(f"  {hold['advice']}", style="yellow")


def run_view(meter: Meter) -> Live:
    """Show the progress of a run on stderr while the context is open."""
    view = _RunView(meter)
    return Live(view, console=Console(stderr=True), refresh_per_second=8, transient=True)


class _RunView:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __rich__(self) -> RenderableType:
        now = self._meter.snapshot()
        sent = now.finished + sum(min(each.sent, each.size) for each in now.running)
        left = max(now.expected - sent, 0)
        progress = progress_of(
            now, NOTHING, (), started_at=0, version="", bandwidth=None, calls_per_s=None
        )
        progress["bytes_left"] = left
        progress["seconds_left"] = left / now.sent_rate if left and now.sent_rate > 0 else None
        label = f"{now.finished_files} of {now.expected_files} files"
        rows = [_bar(label, sent, now.expected), _rates(progress), *_running(progress["running"])]
        if now.settling_files:
            rows.append(Text(f"waiting for {now.settling_files} files to stop changing"))
        return Group(*rows)


def _totals(document: Document) -> RenderableType:
    files, sizes, progress = (
        document["files_by_state"], document["bytes_by_state"], document["progress"],
    )  # fmt: skip
    registered, left = sizes.get("registered", 0), progress["bytes_left"]
    sent = registered + sum(min(each["sent"], each["size"]) for each in progress["running"])
    todo = sum(files.get(state, 0) for state in ("queued", "waiting", "uploading"))
    label = f"{files.get('registered', 0)} files in the catalog, {todo} to upload"
    return _bar(label, sent, sent + left)


def _bar(label: str, done: int, total: int) -> RenderableType:
    table = _grid()
    table.add_row(
        label,
        ProgressBar(total=max(total, 1), completed=min(done, total), complete_style="cyan"),
        f"{size_text(min(done, total))} of {size_text(total)}",
    )
    return table


def _rates(progress: Document) -> Text:
    left = progress["seconds_left"]
    text = f"uploading {size_text(progress['sent_rate'])}/s"
    if progress["bandwidth"] is not None:
        text += f" (limit {size_text(progress['bandwidth'])}/s)"
    text += f"   hashing {size_text(progress['hashed_rate'])}/s"
    text += f"   time left {'-' if left is None else duration_text(left)}"
    return Text(text)


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
        text.append(
            f"last file registered {duration_text((now_ms - success_at) / 1000)} ago", style="dim"
        )
    return text


def _running(running: Sequence[Document]) -> Iterator[RenderableType]:
    for each in running[:RUNNING_SHOWN]:
        hashing = each["phase"] == "hashing"
        done = each["hashed"] if hashing else min(each["sent"], each["size"])
        style = "magenta" if hashing else "cyan"
        parts = "" if each["parts"] is None else f", {each['parts_done']}/{each['parts']} parts"
        table = _grid(ratio=2)
        table.add_row(
            Text(each["path"]),
            ProgressBar(total=max(each["size"], 1), completed=done, complete_style=style),
            f"{each['phase']} {size_text(done)} of {size_text(each['size'])}{parts}",
        )
        yield table
    if len(running) > RUNNING_SHOWN:
        yield Text(f"… and {len(running) - RUNNING_SHOWN} more", style="dim")


def _next_tries(tries: Sequence[Document], now_ms: int) -> Iterator[RenderableType]:
    if not tries:
        return
    yield Text()
    yield Text("Next retries", style="bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=40)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for each in tries[:TRIES_SHOWN]:
        wait_s = (each["run_after"] - now_ms) / 1000
        when = f"in {duration_text(wait_s)}" if wait_s > 0 else "soon"
        reason = f"{each['reason'] or ''} (attempt {each['attempt']})"
        table.add_row(f"  {when}", Text(each["path"]), Text(reason, style="yellow"))
    yield table


def _grid(ratio: int = 1) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio if ratio > 1 else None)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    return table
