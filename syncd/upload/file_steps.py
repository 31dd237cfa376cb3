"""
The file of a job: reading it, and making sure that it is still the one that was read.

A file that moved ends the run: ``FileChanged`` comes out of everything here that looks at it.
"""

from dataclasses import dataclass, replace

import structlog

from syncd.core.jobs.parts import leaves_of, plan_parts
from syncd.errors import FileChanged, JobError
from syncd.fs import hashing
from syncd.fs.download_notes import mismatch
from syncd.monitoring.progress import Phase
from syncd.types import LEAF_SIZE, Call, Job, Plan, printable
from syncd.upload import failures
from syncd.upload.context import JobContext
from syncd.upload.hash_window import HashWindow

YOUNGEST_S = 2.0
"""A file changed more recently than this could change again without its timestamps telling."""

STRETCH = 8 * LEAF_SIZE
"""Bytes hashed between two looks at whether the hashing may go on."""

_log = structlog.get_logger("syncd.worker")


# -- reading it ------------------------------------------------------------------------------------


async def plan(run: JobContext) -> None:
    """Read the file, and commit what it is."""
    run.means.meter.phase(run.job.id, Phase.HASHING)
    await look_first(run)
    await _note_plan(run, await _read(run))


async def look_first(run: JobContext) -> None:
    """Before the first byte is read: is it the file that was queued, and of some age?"""
    clock = run.means.clock
    run.job = await _as_it_is_now(run)
    age_s = (clock.now_ms() - run.job.fingerprint.ctime_ns // 1_000_000) / 1000
    if 0 <= age_s < YOUNGEST_S:
        await clock.sleep(YOUNGEST_S - age_s)


async def hash_ahead(run: JobContext, lead: HashWindow) -> None:
    """
    Read the file beside its sending, as far ahead as *lead* allows, and commit what it is.

    Raises:
        Stopped: The job was told to stop, or the file is not what its download was to bring.
    """
    reins = _Reins(run)
    hasher = hashing.Hasher(run.path, run.job.fingerprint, read_again=True)
    while not hasher.is_through:
        await lead.room()
        await run.means.lanes.hash(
            hasher.read_to, hasher.offset + STRETCH, stop=reins, on_bytes=reins.on_bytes
        )
        lead.grow(bytes(hasher.leaves))
    await _note_plan(run, hasher.plan())
    if run.ended is not None:
        run.stop.set()
        raise hashing.Stopped


async def _read(run: JobContext) -> Plan:
    reins = _Reins(run)
    return await run.means.lanes.hash(
        hashing.make_plan, run.path, run.job.fingerprint, stop=reins, on_bytes=reins.on_bytes
    )


async def _note_plan(run: JobContext, found: Plan) -> None:
    """Commit what the whole file is; announced as something else, it is not worked on any more."""
    means = run.means
    expected = await means.lanes.hash(means.expected_of, run.job)
    if expected in (None, found.sha256):
        run.job = await run.write(means.store.jobs.note_plan, found)
        return
    reason = mismatch(expected)
    await run.write(means.store.files.mark_incomplete, reason)
    _log.warning("file.incomplete", path=run.job.rel_path, reason=reason)
    failures.superseded(run)


@dataclass(frozen=True, slots=True)
class _Reins:
    """Holds a hashing thread to its rate, counts what it reads, and stops it."""

    run: JobContext

    def is_set(self) -> bool:
        return self.run.stop.is_set() or self.run.leaving.is_set()

    def on_bytes(self, count: int) -> None:
        self.run.means.meter.add_hashed(self.run.job.id, count)
        self.run.means.reading.spend(count, stop=self)


# -- is it still the same? -------------------------------------------------------------------------


async def fence(run: JobContext) -> None:
    """
    The file must still be the one that was planned.

    Where only ctime moved (a chmod, or a rewrite that put mtime back) the file is read again and
    must hold the same bytes.
    """
    before, now = run.job, await _as_it_is_now(run)
    if now.fingerprint.same_file_as(before.fingerprint):
        return
    run.job = now
    found = await _read(run)
    if found.sha256 != before.sha256:
        raise FileChanged(f"{printable(run.path)} holds other bytes than were sent")
    run.job = await run.write(run.means.store.jobs.note_plan, found)


async def stop_if_moved(run: JobContext) -> None:
    """Stop sending the file if it changed since it was planned; other steps are not affected."""
    if run.call not in (Call.PUT_BODY, Call.PUT_PART):
        return
    try:
        await _as_it_is_now(run)
    except FileChanged as error:
        run.stale = error
        run.stop.set()
    except JobError:
        pass  # the next read reports it


async def compare_leaves(run: JobContext) -> None:
    """Every part must have gone out with the leaves that the file's own digest was made from."""
    job, means = run.job, run.means
    assert job.leaves is not None, "planned before"
    sent = await means.lanes.db(means.store.jobs.sent_leaves, job)
    for part in plan_parts(job.fingerprint.size, run.upload.part_size):
        if sent.get(part.number) != job.leaves[leaves_of(part)]:
            raise FileChanged(
                f"{printable(run.path)} holds other bytes than were sent of it", unseen=True
            )


async def _as_it_is_now(run: JobContext) -> Job:
    """The job with the ctime of this moment; anything else that moved makes it stale."""
    seen = await run.means.lanes.hash(hashing.look, run.path)
    if seen == run.job.fingerprint:
        return run.job
    if not seen.only_ctime_moved(run.job.fingerprint):
        raise FileChanged(f"{printable(run.path)} changed before it could be read")
    return replace(run.job, fingerprint=seen)
