"""
What is told of many files, as sheets and lines: ``render`` draws them, ``plain`` writes them.

Everything in them is printable. Styles are rich's.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from syncd.formatting import duration_text, printable, size_text, time_text
from syncd.monitoring.status import TO_DO

if TYPE_CHECKING:
    from syncd.cli.reading import Summary
    from syncd.monitoring.progress import Snapshot
    from syncd.store.outline import FileReport, PassedOver

STYLES = {
    "registered": "green", "upload": "cyan", "uploading": "cyan", "queued": "cyan",
    "waiting": "yellow", "needs_sign_in": "yellow", "refused": "red", "conflict": "red",
    "failed": "bold red", "cancelled": "dim", "drift": "red", "unreadable": "red", "incomplete": "yellow",
    "settling": "yellow", "ignored": "dim", "shadowed": "dim",
}  # fmt: skip

STILL_S = 300.0
"""`status` says since when nothing moved once it has been this many seconds."""

LISTED = 20
"""Files on their way, and at the end of a run files in the catalog, that are listed one by one."""


class Styled(NamedTuple):
    """A cell with a style of its own."""

    text: str
    style: str


class Sheet(NamedTuple):
    """A table: its columns, and rows of as many cells."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str | Styled, ...]]


class Line(NamedTuple):
    """A line of its own; with no style its numbers stand out on a terminal."""

    text: str
    style: str | None = None


Told = Sheet | Line


def right(column: str) -> bool:
    """Does what is in the column stand at its right?"""
    return column == "size"


def standing(said: "Summary", *, now_ms: int) -> Iterator[Told]:
    """What ``syncd status`` tells."""
    progress = said.progress
    yield Line(f"syncd is {'running' if said.running else 'not running'}")
    if not said.standing.roots:
        yield Line("Nothing was scanned yet. Start it with: syncd --once")
        return
    yield from summary(said, unsettled={}, problems={})
    last_ms = said.standing.last_success_at
    if last_ms is not None:
        yield Line(f"last success: {time_text(last_ms)}")
    if progress is not None:
        yield from activity(progress, now_ms)


def summary(
    said: "Summary",
    *,
    unsettled: Mapping[str, str],
    problems: Mapping[str, str],
    snapshot: "Snapshot | None" = None,
) -> Iterator[Told]:
    """What a run, or the store, has to say at the end: counts, then whatever is not in the catalog."""
    counts = {state: amount.files for state, amount in said.standing.amounts.items()}
    yield from _registered(said.registered, counts.get("registered", 0))
    yield from _left(said.left, unsettled, problems)
    on_the_way = sum(counts.get(state, 0) for state in TO_DO)
    listed = sum(file.state in TO_DO for file in said.left)
    if on_the_way > listed:
        yield Line(f"… and {on_the_way - listed} more on their way: syncd queue", "dim")
    yield from _passed_over(said.passed_over)
    for hold in said.standing.holds:
        yield Line(f"hold ({hold.kind}): {printable(hold.reason)}", "bold red")
        if hold.advice:
            yield Line(f"  {hold.advice}", "yellow")
    yield _last_line(counts, unsettled, snapshot)


def activity(progress: Mapping[str, Any], now_ms: int) -> Iterator[Line]:
    """What a running syncd does now, as its overview document tells it."""
    since = duration_text((now_ms - progress["started_at"]) / 1000)
    left = progress["seconds_left"]
    yield Line(
        f"running for {since}: sending {size_text(progress['sent_rate'])}/s, hashing"
        f" {size_text(progress['hashed_rate'])}/s, {size_text(progress['bytes_left'])} to go"
        + ("" if left is None else f", about {duration_text(left)}")
    )
    if progress["running"] and progress["idle_s"] > STILL_S:
        still_since = time_text(now_ms - int(progress["idle_s"] * 1000))
        yield Line(f"nothing got further since {still_since}", "bold yellow")
    for running in progress["running"]:
        done = running["hashed"] if running["phase"] == "hashing" else running["sent"]
        parts = (
            "" if running["parts"] is None else f" part {running['parts_done']}/{running['parts']}"
        )
        amount = f"{size_text(done)} of {size_text(running['size'])}"
        yield Line(f"  {running['path']}: {running['phase']}{parts}, {amount}", "")
    yield from _settling(progress["settling_files"], progress["settling"])


def time_left(settling: Mapping[str, Any]) -> str | None:
    """How long a settling file must not change any more; None while something else keeps it."""
    seconds = settling["seconds_left"]
    return None if seconds is None else f"{math.ceil(seconds)} s"


def more_settling(total: int, listed: int) -> Iterator[Line]:
    """A line for the settling files that are not listed, if there are any."""
    if total > listed:
        yield Line(f"… and {total - listed} more still changing", "dim")


def _settling(total: int, files: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    if total:
        yield Line(f"waiting for {total} {'file' if total == 1 else 'files'} to stop changing")
    for each in files:
        left = time_left(each)
        until = each["reason"] if left is None else f"{left} left"
        yield Line(f"  {each['path']}  {size_text(each['size'])}  {until}", "")
    yield from more_settling(total, len(files))


def _registered(files: Sequence["FileReport"], total: int) -> Iterator[Told]:
    if not files:
        return
    rows: list[tuple[str | Styled, ...]] = [
        (
            file.model_path or file.shown,
            size_text(file.size),
            (file.sha256 or "")[:12],
            "adopted" if file.adopted else "uploaded",
        )
        for file in files
    ]
    yield Sheet("In the catalog", ("model", "size", "sha256", "how"), rows)
    if total > len(files):
        yield Line(f"… and {total - len(files)} more: syncd status --all", "dim")


def _left(
    files: Sequence["FileReport"], unsettled: Mapping[str, str], problems: Mapping[str, str]
) -> Iterator[Sheet]:
    if not files and not unsettled and not problems:
        return
    rows: list[tuple[str | Styled, ...]] = []
    for file in files:
        reason = ". ".join(text.rstrip(".") for text in (file.reason, file.advice) if text)
        state = Styled(file.state, STYLES.get(file.state, ""))
        rows.append((file.shown, size_text(file.size), state, f"{reason}." if reason else ""))
    for path, reason in problems.items():
        rows.append((printable(path), "", Styled("unreadable", "red"), f"{reason}."))
    for path, reason in unsettled.items():
        rows.append((printable(path), "", Styled("settling", STYLES["settling"]), reason))
    yield Sheet("Not in the catalog", ("file", "size", "state", "why, and what to do"), rows)


def _passed_over(rules: Sequence["PassedOver"]) -> Iterator[Sheet]:
    if not rules:
        return
    rows: list[tuple[str | Styled, ...]] = [
        (str(rule.files), rule.reason, rule.example) for rule in rules
    ]
    yield Sheet("Passed over", ("files", "reason", "for example"), rows)


def _last_line(
    counts: Mapping[str, int], unsettled: Mapping[str, str], snapshot: "Snapshot | None"
) -> Line:
    if unsettled:
        counts = {**counts, "settling": len(unsettled)}
    text = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no files"
    if snapshot is not None:
        text += (
            f"; this run: {snapshot.registered_files} registered, {snapshot.adopted_files} adopted, "
            f"{size_text(snapshot.sent)} sent"
        )
    return Line(text, "bold")
