"""Sends the missing parts of an open upload, several at once, and hashes the file while it sends."""

import asyncio
from functools import partial

import structlog

from syncd.core.jobs.outcome import Side
from syncd.core.jobs.parts import leaves_of, missing_parts, plan_parts
from syncd.errors import FileChanged, Hold, JobError, LeaseLost, StateError
from syncd.fs import hashing
from syncd.fs.page_cache import Footprint
from syncd.monitoring.progress import Phase, Tally
from syncd.types import Call, Part
from syncd.upload import file_steps
from syncd.upload.context import DAY_IS_FULL, JobContext, Released
from syncd.upload.hash_window import HashWindow

_log = structlog.get_logger(__name__)


async def missing(context: JobContext) -> list[Part]:
    """The parts without a committed etag, in order."""
    job, deps = context.job, context.deps
    etags = await deps.lanes.db(deps.store.uploads.etags, job)
    return missing_parts(plan_parts(job.fingerprint.size, context.upload.part_size), etags)


async def send(context: JobContext) -> None:
    """
    Send the missing parts; after a first error, let running requests end.

    A file that is not hashed yet is hashed ahead of the parts, and to its end even if they fail, so
    that the next attempt knows its digests.
    """
    context.call = Call.PUT_PART
    if context.job.sha256 is None:
        await file_steps.look_first(context)
    left = await missing(context)
    context.deps.meter.phase(context.job.id, Phase.SENDING)
    _report_progress(context, left)
    found = await context.deps.lanes.hash(hashing.footprint, context.path)
    await _Sending(context, left, found).run()


def _report_progress(context: JobContext, left: list[Part]) -> None:
    """Report the parts that the store already has."""
    sent = context.job.fingerprint.size - sum(part.size for part in left)
    total = context.upload.part_count
    context.deps.meter.parts(context.job.id, total, total - len(left), sent)


class _Sending:
    """
    Senders that take one part after the other, and hashing ahead of them.

    Args:
        left: The parts to send, in order.
        found: The part of the file that was in the page cache before.
    """

    def __init__(self, context: JobContext, left: list[Part], found: Footprint) -> None:
        self._context = context
        self._deps = context.deps
        self._upload = context.upload
        self._queue = list(left)
        self._found = found
        self._lead = HashWindow(
            context.job.leaves or b"", left, width=lambda: context.deps.transfer.width
        )
        self._errors: list[BaseException] = []

    async def run(self) -> None:
        """
        Send until all parts are acknowledged, one failed, or no more may be sent.

        Raises:
            Released: No more may be sent.
            JobError, hashing.Stopped, StateError: The most important of the errors.
        """
        async with asyncio.TaskGroup() as group:
            if self._context.job.sha256 is None:
                group.create_task(self._hash())
            senders = [
                group.create_task(self._sender())
                for _ in range(min(self._deps.transfer.widest, len(self._queue)))
            ]
            await asyncio.wait(senders)
            self._lead.end()
        if self._errors:
            raise min(self._errors, key=_urgency)
        if self._queue:
            leaving = self._context.leaving
            raise Released(leaving.reason if leaving.is_set() else DAY_IS_FULL)

    async def _sender(self) -> None:
        while await self._may_go_on() and self._queue and not self._errors:
            part = self._queue.pop(0)
            leaves = await self._lead.over(part)
            if leaves is None:
                return
            try:
                stored = await self._send(part, leaves)
            except (JobError, hashing.Stopped, StateError) as error:
                self._failed(error)
                if isinstance(error, JobError):
                    self._deps.meter.count(Tally.PART, "failed")
            else:
                if not stored:
                    self._queue.insert(0, part)
                    return
                await self._acknowledged(part)

    async def _may_go_on(self) -> bool:
        """Return whether another part may be sent."""
        return not self._context.leaving.is_set() and await self._deps.transfer.may_send()

    async def _send(self, part: Part, leaves: bytes) -> bool:
        """Return whether the part was stored; False if no more may be sent."""
        context, deps = self._context, self._deps
        etag = await deps.transfer.part(
            context.job, self._upload, part, leaves,
            found=self._found, stop=context.stop, may_begin=self._may_go_on,
            on_signed=partial(context.contact, Side.API),
        )  # fmt: skip
        if etag is None:
            return False
        sent = leaves[leaves_of(part)]
        await context.write(deps.store.uploads.note_part, part, etag, sent, context.now_ms)
        return True

    async def _acknowledged(self, part: Part) -> None:
        self._lead.acknowledged(part)
        await self._context.contact(Side.STORE)
        self._deps.meter.count(Tally.PART, "stored")
        self._deps.meter.part_done(self._context.job.id)
        _log.debug("part.uploaded", part=part.number, size=part.size)

    async def _hash(self) -> None:
        try:
            await file_steps.hash_ahead(self._context, self._lead)
        except (JobError, hashing.Stopped, StateError) as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._errors.append(error)
        self._lead.end()


def _urgency(error: BaseException) -> int:
    """
    Order errors by importance: the end of the process, a hold, the end of this job, others.

    A changed file is detected again later; a server asks for a pause only once.
    """
    order = (StateError, Hold, LeaseLost, hashing.Stopped, FileChanged)
    return next((i for i, kind in enumerate(order) if isinstance(error, kind)), len(order))
