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
from syncd.types import LEAF_SIZE, Call, FileDigests, Job, printable
from syncd.upload import failures
from syncd.upload.context import JobContext
from syncd.upload.hash_window import HashWindow

YOUNGEST_S = 2.0
"""A file changed more recently than this could change again without its timestamps telling."""

STRETCH = 8 * LEAF_SIZE
"""Bytes hashed between two looks at whether the hashing may go on."""

_log = structlog.get_logger(__name__)


# -- reading it ------------------------------------------------------------------------------------


async def hash_file(context: JobContext) -> None:
    """Read the file, and commit what it is."""
    context.deps.meter.phase(context.job.id, Phase.HASHING)
    await look_first(context)
    await _note_digests(context, await _read(context))


async def look_first(context: JobContext) -> None:
    """Before the first byte is read: is it the file that was queued, and of some age?"""
    clock = context.deps.clock
    context.job = await _as_it_is_now(context)
    age_s = (clock.now_ms() - context.job.fingerprint.ctime_ns // 1_000_000) / 1000
    if 0 <= age_s < YOUNGEST_S:
        await clock.sleep(YOUNGEST_S - age_s)


async def hash_ahead(context: JobContext, lead: HashWindow) -> None:
    """
    Read the file beside its sending, as far ahead as *lead* allows, and commit what it is.

    Raises:
        Stopped: The job was told to stop, or the file is not what its download was to bring.
    """
    reins = _Reins(context)
    hasher = hashing.Hasher(context.path, context.job.fingerprint, read_again=True)
    while not hasher.is_finished:
        await lead.room()
        await context.deps.lanes.hash(
            hasher.read_to, hasher.offset + STRETCH, stop=reins, on_bytes=reins.on_bytes
        )
        lead.grow(bytes(hasher.leaves))
    await _note_digests(context, hasher.digests())
    if context.ended is not None:
        context.stop.set()
        raise hashing.Stopped


async def _read(context: JobContext) -> FileDigests:
    reins = _Reins(context)
    return await context.deps.lanes.hash(
        hashing.hash_file,
        context.path,
        context.job.fingerprint,
        stop=reins,
        on_bytes=reins.on_bytes,
    )


async def _note_digests(context: JobContext, found: FileDigests) -> None:
    """Commit what the whole file is; announced as something else, it is not worked on any more."""
    deps = context.deps
    expected = await deps.lanes.hash(deps.expected_of, context.job)
    if expected in (None, found.sha256):
        context.job = await context.write(deps.store.jobs.note_digests, found, context.now_ms)
        return
    reason = mismatch(expected)
    await context.write(deps.store.files.mark_incomplete, reason, context.now_ms)
    _log.warning("file.incomplete", path=context.job.rel_path, reason=reason)
    failures.abandon(context)


@dataclass(frozen=True, slots=True)
class _Reins:
    """Holds a hashing thread to its rate, counts what it reads, and stops it."""

    context: JobContext

    def is_set(self) -> bool:
        return self.context.stop.is_set() or self.context.leaving.is_set()

    def on_bytes(self, count: int) -> None:
        self.context.deps.meter.add_hashed(self.context.job.id, count)
        self.context.deps.reading.spend(count, stop=self)


# -- is it still the same? -------------------------------------------------------------------------


async def fence(context: JobContext) -> None:
    """
    The file must still be the one that was planned.

    Where only ctime moved (a chmod, or a rewrite that put mtime back) the file is read again and
    must hold the same bytes.
    """
    before, now = context.job, await _as_it_is_now(context)
    if now.fingerprint.same_file_as(before.fingerprint):
        return
    context.job = now
    found = await _read(context)
    if found.sha256 != before.sha256:
        raise FileChanged(f"{printable(context.path)} holds other bytes than were sent")
    context.job = await context.write(context.deps.store.jobs.note_digests, found, context.now_ms)


async def stop_if_moved(context: JobContext) -> None:
    """Stop sending the file if it changed since it was planned; other steps are not affected."""
    if context.call not in (Call.PUT_BODY, Call.PUT_PART):
        return
    try:
        await _as_it_is_now(context)
    except FileChanged as error:
        context.stale = error
        context.stop.set()
    except JobError:
        pass  # the next read reports it


async def compare_leaves(context: JobContext) -> None:
    """Every part must have gone out with the leaves that the file's own digest was made from."""
    job, deps = context.job, context.deps
    assert job.leaves is not None, "planned before"
    sent = await deps.lanes.db(deps.store.jobs.sent_leaves, job)
    for part in plan_parts(job.fingerprint.size, context.upload.part_size):
        if sent.get(part.number) != job.leaves[leaves_of(part)]:
            raise FileChanged(
                f"{printable(context.path)} holds other bytes than were sent of it", unseen=True
            )


async def _as_it_is_now(context: JobContext) -> Job:
    """The job with the ctime of this moment; anything else that moved makes it stale."""
    seen = await context.deps.lanes.hash(hashing.read_fingerprint, context.path)
    if seen == context.job.fingerprint:
        return context.job
    if not seen.only_ctime_moved(context.job.fingerprint):
        raise FileChanged(f"{printable(context.path)} changed before it could be read")
    return replace(context.job, fingerprint=seen)
