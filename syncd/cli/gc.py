"""``syncd gc``: aborts unneeded uploads and deletes old history."""

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass, field

import click

from syncd.cli.main import Invocation, json_option, pass_invocation, print_json
from syncd.config.loader import Loaded
from syncd.core.exit_codes import Exit
from syncd.errors import AlreadyRunning, JobError
from syncd.executors import Executors
from syncd.formatting import size_text
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.store.store import Store
from syncd.types import UploadState


@dataclass(slots=True)
class Swept:
    """The result; ``code`` is 75 or 77 if uploads are left, and ``why_left`` is the reason."""

    uploads: Counter[str] = field(default_factory=Counter)
    why_left: str | None = None
    code: int = 0
    jobs: int = 0
    events: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


@click.command()
@click.option(
    "--days", type=click.IntRange(0), default=30, show_default=True,
    help="Delete history older than this.",
)  # fmt: skip
@json_option
@pass_invocation
def gc(invocation: Invocation, days: int, as_json: bool) -> int:
    """
    Abort unfinished uploads that are no longer needed, and delete old history.

    Registered files and their records are never changed. syncd must not be running; a running syncd
    aborts such uploads itself.
    """
    swept = asyncio.run(_sweep(invocation.load(), days))
    if as_json:
        ends = {end: swept.uploads[end] for end in ("aborted", "gone", "left", "abandoned")}
        print_json(
            {
                "uploads": ends,
                "why_left": swept.why_left,
                "jobs_dropped": swept.jobs,
                "events_dropped": swept.events,
                "bytes_before": swept.bytes_before,
                "bytes_after": swept.bytes_after,
            }
        )
    else:
        _show(swept)
    return swept.code


async def _sweep(loaded: Loaded, days: int) -> Swept:
    state_dir = os.fspath(loaded.settings.state_dir)
    with reading(state_dir, Report) as report:
        if report is None:
            return Swept()
    try:
        store = Store(state_dir)
    except AlreadyRunning as error:
        raise AlreadyRunning(
            f"{error} A running syncd aborts unneeded uploads itself; use gc while it is stopped."
        ) from None
    lanes, swept = Executors(files=1, slots=1), Swept()
    now_ms = time.time_ns() // 1_000_000
    try:
        swept.bytes_before = await lanes.db(store.upkeep.size)
        await lanes.db(store.upkeep.give_up_uploads, now_ms)
        await _end_uploads(loaded, store, lanes, swept)
        dropped = await lanes.db(store.upkeep.drop_old, now_ms - days * 86_400_000)
        swept.jobs, swept.events = dropped.jobs, dropped.events
        if dropped.jobs or dropped.events:
            await lanes.db(store.upkeep.compact)
        swept.bytes_after = await lanes.db(store.upkeep.size)
    finally:
        await lanes.db(store.close)
        lanes.close()
    return swept


async def _end_uploads(loaded: Loaded, store: Store, lanes: Executors, swept: Swept) -> None:
    from syncd.cli.cloud_session import exit_of, reaching
    from syncd.clock import SystemClock
    from syncd.daemon.team_guard import require_same_cloud
    from syncd.maintenance.abort_uploads import UploadAborter

    before = await lanes.db(store.report.uploads)
    if not before[UploadState.UNWANTED]:
        return
    await lanes.db(require_same_cloud, store, loaded.settings)
    answered = await lanes.db(store.servers.answered, loaded.settings.api.base_url)
    async with reaching(loaded, answered=answered) as api:
        try:
            await api.me()  # or each upload would wait for a cloud that is not there
        except JobError as error:
            swept.why_left, swept.code = str(error), exit_of(error)
        else:
            aborter = UploadAborter(store=store, lanes=lanes, api=api, clock=SystemClock())
            await aborter.abort_unwanted()
    after = await lanes.db(store.report.uploads)
    ended: dict[str, int] = {state: after[state] - before[state] for state in UploadState}
    swept.uploads = Counter({**ended, "left": after[UploadState.UNWANTED]})
    if swept.uploads["left"] and swept.why_left is None:
        swept.why_left, swept.code = "the cloud did not end them; the log says why", Exit.LATER


def _show(swept: Swept) -> None:
    uploads = swept.uploads
    click.echo(f"uploads: {uploads['aborted']} aborted, {uploads['gone']} were gone already")
    if uploads["abandoned"]:
        click.echo(f"uploads: {uploads['abandoned']} that this server gives no way to abort")
    if uploads["left"]:
        click.echo(f"uploads: {uploads['left']} left for later: {swept.why_left}")
    click.echo(f"forgotten: {swept.jobs} old jobs, {swept.events} old events")
    if swept.bytes_after != swept.bytes_before:
        before, after = size_text(swept.bytes_before), size_text(swept.bytes_after)
        click.echo(f"database: {before} before, {after} now")
