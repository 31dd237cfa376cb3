"""The text of ``syncd status`` and of the summary after a run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from syncd.cli.tables import Cell, Item, Line, Table, state_cell
from syncd.formatting import duration_text, printable, size_text, time_text
from syncd.monitoring.status import TO_DO

if TYPE_CHECKING:
    from syncd.cli.status_data import Summary
    from syncd.monitoring.progress import Snapshot
    from syncd.store.outline import FileReport

STALLED_S = 300.0
"""Seconds without progress after which ``status`` says so."""

LISTED = 20
"""Files that are listed one by one; the others are counted."""


def status_text(summary: "Summary", *, now_ms: int) -> Iterator[Item]:
    """The output of ``syncd status``."""
    yield Line(f"syncd is {'running' if summary.running else 'not running'}")
    if not summary.status.roots:
        yield Line("No files have been scanned yet. To scan and upload them once: syncd --once")
        return
    yield from summary_text(summary, unsettled={}, problems={})
    if summary.status.last_success_at is not None:
        yield Line(f"last file registered: {time_text(summary.status.last_success_at)}")
    if summary.progress is not None:
        yield from activity(summary.progress, now_ms)


def summary_text(
    summary: "Summary",
    *,
    unsettled: Mapping[str, str],
    problems: Mapping[str, str],
    snapshot: "Snapshot | None" = None,
) -> Iterator[Item]:
    """
    Yield the files in the catalog, the other files, the skipped files, the holds, and the counts.

    Args:
        unsettled: Files that a run left because they still change, and why.
        problems: Files and folders that could not be read, and why.
        snapshot: Counters of the run.
    """
    counts = {str(state): amount.files for state, amount in summary.status.amounts.items()}
    yield from _registered(summary.registered, counts.get("registered", 0))
    yield from _not_in_catalog(summary.not_in_catalog, unsettled, problems)
    to_do = sum(counts.get(state, 0) for state in TO_DO)
    listed = sum(file.state in TO_DO for file in summary.not_in_catalog)
    if to_do > listed:
        yield Line(f"… and {to_do - listed} more to upload: syncd queue", "dim")
    if summary.skipped:
        rows = [(str(rule.files), rule.reason, rule.example) for rule in summary.skipped]
        yield Table("Skipped", ("files", "reason", "example"), rows)
    for hold in summary.status.holds:
        yield Line(f"All uploads wait ({hold.kind}): {printable(hold.reason)}", "bold red")
        if hold.advice:
            yield Line(f"  {hold.advice}", "yellow")
    yield _counts(counts, unsettled, snapshot)


def activity(progress: Mapping[str, Any], now_ms: int) -> Iterator[Line]:
    """What a running syncd is doing, from its status document."""
    uptime = duration_text((now_ms - progress["started_at"]) / 1000)
    left = progress["seconds_left"]
    yield Line(
        f"running for {uptime}: uploading {size_text(progress['sent_rate'])}/s, hashing"
        f" {size_text(progress['hashed_rate'])}/s, {size_text(progress['bytes_left'])} left"
        + ("" if left is None else f", about {duration_text(left)}")
    )
    if progress["calls_per_s"] is not None and progress["running"]:
        yield Line(f"API pace: up to {progress['calls_per_s']:g} calls/s")
    if progress["running"] and progress["idle_s"] > STALLED_S:
        since = time_text(now_ms - int(progress["idle_s"] * 1000))
        yield Line(f"no progress since {since}", "bold yellow")
    for running in progress["running"]:
        done = running["hashed"] if running["phase"] == "hashing" else running["sent"]
        total = running["parts"]
        parts = "" if total is None else f" part {running['parts_done']}/{total}"
        amount = f"{size_text(done)} of {size_text(running['size'])}"
        yield Line(f"  {running['path']}: {running['phase']}{parts}, {amount}")
    yield from _settling(progress["settling_files"], progress["settling"])


def time_left(settling: Mapping[str, Any]) -> str | None:
    """Seconds that a settling file must still stay unchanged; None if it waits for something else."""
    seconds = settling["seconds_left"]
    return None if seconds is None else f"{math.ceil(seconds)} s"


def more_settling(total: int, listed: int) -> Iterator[Line]:
    if total > listed:
        yield Line(f"… and {total - listed} more still changing", "dim")


def _settling(total: int, files: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    if total:
        yield Line(f"waiting for {total} {'file' if total == 1 else 'files'} to stop changing")
    for file in files:
        left = time_left(file)
        until = file["reason"] if left is None else f"{left} left"
        yield Line(f"  {file['path']}  {size_text(file['size'])}  {until}")
    yield from more_settling(total, len(files))


def _registered(files: Sequence["FileReport"], total: int) -> Iterator[Item]:
    if not files:
        return
    rows = []
    for file in files:
        how, sha256 = "adopted" if file.adopted else "uploaded", (file.sha256 or "")[:12]
        rows.append((file.model_path or file.shown, size_text(file.size), sha256, how))
    yield Table("In the catalog", ("model", "size", "sha256", "how"), rows)
    if total > len(files):
        yield Line(f"… and {total - len(files)} more: syncd status --all", "dim")


def _not_in_catalog(
    files: Sequence["FileReport"], unsettled: Mapping[str, str], problems: Mapping[str, str]
) -> Iterator[Table]:
    if not files and not unsettled and not problems:
        return
    rows: list[tuple[str | Cell, ...]] = []
    for file in files:
        reason = ". ".join(text.rstrip(".") for text in (file.reason, file.advice) if text)
        text = f"{reason}." if reason else ""
        rows.append((file.shown, size_text(file.size), state_cell(file.state), text))
    for path, reason in problems.items():
        rows.append((printable(path), "", state_cell("unreadable"), f"{reason}."))
    for path, reason in unsettled.items():
        rows.append((printable(path), "", state_cell("settling"), reason))
    yield Table("Not in the catalog", ("file", "size", "state", "reason, and what to do"), rows)


def _counts(
    counts: Mapping[str, int], unsettled: Mapping[str, str], snapshot: "Snapshot | None"
) -> Line:
    if unsettled:
        counts = {**counts, "settling": len(unsettled)}
    text = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no files"
    if snapshot is not None:
        done = f"{snapshot.registered_files} registered, {snapshot.adopted_files} adopted"
        text += f"; this run: {done}, {size_text(snapshot.sent)} sent"
    return Line(text, "bold")
