"""
The steps that read a job's file, and the checks that it has not changed since.

Every function here raises ``FileChanged`` if the file has changed.
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
"""A file that changed more recently could change again within one tick of its timestamps."""

STRETCH = 8 * LEAF_SIZE
"""Bytes hashed between two checks whether hashing may continue."""

_log = structlog.get_logger(__name__)


async def hash_file(context: JobContext) -> None:
    """Hash the file and commit its digests."""
    context.deps.meter.phase(context.job.id, Phase.HASHING)
    await look_first(context)
    await _note_digests(context, await _read(context))


async def look_first(context: JobContext) -> None:
    """Require that the file is the one that was queued, and wait until its timestamps are old enough."""
    clock = context.deps.clock
    context.job = await _as_it_is_now(context)
    age_s = (clock.now_ms() - context.job.fingerprint.ctime_ns // 1_000_000) / 1000
    if 0 <= age_s < YOUNGEST_S:
        await clock.sleep(YOUNGEST_S - age_s)


async def hash_ahead(context: JobContext, lead: HashWindow) -> None:
    """
    Hash the file while it is sent, as far ahead as *lead* allows, and commit its digests.

    Raises:
        Stopped: The job was stopped, or the file differs from what its download should have been.
    """
    control = _HashControl(context)
    hasher = hashing.Hasher(context.path, context.job.fingerprint, read_again=True)
    while not hasher.is_finished:
        await lead.room()
        await context.deps.lanes.hash(
            hasher.read_to, hasher.offset + STRETCH, stop=control, on_bytes=control.on_bytes
        )
        lead.grow(bytes(hasher.leaves))
    await _note_digests(context, hasher.digests())
    if context.ended is not None:
        context.stop.set()
        raise hashing.Stopped


async def _read(context: JobContext) -> FileDigests:
    control = _HashControl(context)
    return await context.deps.lanes.hash(
        hashing.hash_file,
        context.path,
        context.job.fingerprint,
        stop=control,
        on_bytes=control.on_bytes,
    )


async def _note_digests(context: JobContext, found: FileDigests) -> None:
    """Commit the digests; a file with another hash than its download announced is incomplete."""
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
class _HashControl:
    """Limits the rate of a hashing thread, counts its bytes and stops it."""

    context: JobContext

    def is_set(self) -> bool:
        return self.context.stop.is_set() or self.context.leaving.is_set()

    def on_bytes(self, count: int) -> None:
        self.context.deps.meter.add_hashed(self.context.job.id, count)
        self.context.deps.reading.spend(count, stop=self)


async def fence(context: JobContext) -> None:
    """
    Require that the file is still the one that was hashed.

    If only ctime changed (a chmod, or a rewrite that restored mtime), the file is hashed again and
    must have the same bytes.
    """
    before, now = context.job, await _as_it_is_now(context)
    if now.fingerprint.same_file_as(before.fingerprint):
        return
    context.job = now
    found = await _read(context)
    if found.sha256 != before.sha256:
        raise FileChanged(f"{printable(context.path)} differs from the bytes that were sent")
    context.job = await context.write(context.deps.store.jobs.note_digests, found, context.now_ms)


async def stop_if_moved(context: JobContext) -> None:
    """Stop sending the file if it has changed; other steps are not affected."""
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
    """Require that every part was sent with the leaves that the file's digest was made from."""
    job, deps = context.job, context.deps
    assert job.leaves is not None, "hashed before"
    sent = await deps.lanes.db(deps.store.uploads.sent_leaves, job)
    for part in plan_parts(job.fingerprint.size, context.upload.part_size):
        if sent.get(part.number) != job.leaves[leaves_of(part)]:
            raise FileChanged(f"{printable(context.path)} differs from the bytes that were sent")


async def _as_it_is_now(context: JobContext) -> Job:
    """The job with the current ctime. Raises ``FileChanged`` if anything else changed."""
    seen = await context.deps.lanes.hash(hashing.read_fingerprint, context.path)
    if seen == context.job.fingerprint:
        return context.job
    if not seen.only_ctime_moved(context.job.fingerprint):
        raise FileChanged(f"{printable(context.path)} changed before it could be read")
    return replace(context.job, fingerprint=seen)
