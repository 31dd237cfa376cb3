"""
The steps that bring a job's file into the catalog: adopt a record, move one, or register a new one.

The intent to register is committed before the request. If its answer is lost, syncd searches for the
record before it repeats the request.
"""

from collections.abc import Collection, Mapping

import structlog

from syncd.cloud.capabilities import NO_SUCH_CALL
from syncd.cloud.client import ACTIVE, DISABLED
from syncd.core.jobs.outcome import End, Outcome, Side
from syncd.core.jobs.parts import Route
from syncd.errors import JobError, LeaseLost, Permanent
from syncd.types import Call, HeldClass, Job, Kind, Remark, printable
from syncd.upload import file_steps
from syncd.upload.context import JobContext

_NO_CHANGE = frozenset({Kind.ROUTE_UNKNOWN, Kind.REQUEST_REFUSED, Kind.CONFLICT})
"""Errors which say that this server does not support this change of the record."""

_log = structlog.get_logger(__name__)


async def known(context: JobContext) -> str | None:
    """The id of the record with these bytes at this path, from our records or else the catalog."""
    job, deps = context.job, context.deps
    assert job.sha256 is not None, "hashed before"
    path, records = job.target.model_path, deps.store.records
    await _settle_doubts(context)
    await _settle_changes(context)
    own = await deps.lanes.db(records.claim, path, job.sha256)
    if own is not None:
        return own
    context.call = Call.LIST_MODELS
    found = await deps.catalog.holding(path, job.sha256)
    if found is None or await deps.lanes.db(records.is_leaving, found.id):
        return None
    return found.id


async def _settle_doubts(context: JobContext) -> None:
    """
    Find the records that superseded jobs of this path may have registered; they are ours.

    Raises:
        Released: One of them may still appear.
    """
    deps, path, now_ms = context.deps, context.job.target.model_path, context.now_ms
    for earlier in await deps.lanes.db(deps.store.jobs.in_doubt, path):
        assert earlier.storage_key is not None, "nothing is registered without one"
        context.call = Call.LIST_MODELS
        found, _ = await deps.catalog.stored_under(earlier.storage_key)
        if found is None:
            context.require_past(_register_sent_at(earlier), Call.REGISTER)
        record_id = None if found is None else found.id
        await deps.lanes.db(deps.store.jobs.settle_doubt, earlier, record_id, now_ms)
        deps.catalog.forget()


async def _settle_changes(context: JobContext) -> None:
    """
    Find out whether unanswered updates and deletes of records with these bytes took effect.

    A record with such a pending change is neither adopted nor moved.

    Raises:
        Released: One of them may still take effect.
    """
    deps, sha256, now_ms = context.deps, context.job.sha256, context.now_ms
    assert sha256 is not None, "hashed before"
    for changing in await deps.lanes.db(deps.store.records.changing, sha256):
        context.call = Call.GET_MODEL
        found = await deps.api.get_model(changing.record_id)
        if not changing.took_effect(found):
            context.require_past(changing.sent_at, Call.UPDATE_MODEL)
        await deps.lanes.db(deps.store.records.settle_change, changing, found, now_ms)
        deps.catalog.forget()


async def movable(context: JobContext) -> str | None:
    """The id of our record with these bytes whose file is gone, if it can be moved."""
    job, deps = context.job, context.deps
    assert job.sha256 is not None, "hashed before"
    if not context.may_move:
        return None
    return await deps.lanes.db(deps.store.records.movable, job.sha256)


async def not_in_catalog(context: JobContext) -> bool:
    """
    Return whether no record that we know, and none at this path, has the size of the file.

    They may then be sent while they are hashed, which reads the disk once. An upload that began this
    way continues this way.
    """
    job, deps = context.job, context.deps
    if context.hash_first or context.route is not Route.MULTIPART:
        return False
    if job.storage_key is not None:
        return True
    path = job.target.model_path
    if await deps.lanes.db(deps.store.jobs.in_doubt, path):
        return False
    context.call = Call.LIST_MODELS
    size = job.fingerprint.size
    return not (
        await deps.lanes.db(deps.store.records.has_size, size)
        or await deps.catalog.may_hold(path, size)
    )


async def adopt(context: JobContext) -> None:
    """Take over the record that already has these bytes at this path."""
    record_id = await known(context)
    assert record_id is not None, "the step is taken only when the record is known"
    await context.note(record_id=record_id, adopted=True)


async def move(context: JobContext) -> None:
    """Move the record of a renamed file, if the server supports it."""
    record_id, target, deps = await movable(context), context.job.target, context.deps
    assert record_id is not None, "the step is taken only where there is one"
    place = {
        "model_path": target.model_path,
        "model_type": target.model_type,
        "display_name": target.display_name,
    }
    context.may_move = await _update_record(context, record_id, place, unless=_NO_CHANGE)
    if not context.may_move:
        return
    deps.catalog.forget()
    _log.info("record.moved", record_id=record_id, model_path=target.model_path)
    await deps.lanes.db(deps.store.records.note_moved, record_id, target, context.now_ms)
    await context.note(record_id=record_id, adopted=False)


async def resolve_path_conflict(context: JobContext) -> None:
    """
    Adopt the record if the path is taken by these bytes; fail if it is taken by others.

    Raises:
        Permanent: The catalog has other bytes there, or does not show which.
    """
    job, catalog = context.job, context.deps.catalog
    assert job.sha256 is not None, "hashed before"
    catalog.forget()
    found = await catalog.holding(job.target.model_path, job.sha256)
    if found is None:
        raise Permanent(
            f"the server says that {job.target.model_path} is taken, and does not show these bytes "
            "there",
            kind=Kind.CONFLICT,
            advice="A record's bytes never change. Give the changed file a new name, or "
            "remove the old record from the catalog.",
        )
    await context.note(record_id=found.id, adopted=job.stored_at is None)


async def register(context: JobContext) -> None:
    """Register the stored object, unless its bundle is incomplete."""
    if (mate := await _blocking_bundle_member(context)) is not None:
        reason = f"stored; its bundle waits for {mate}"
        await context.write(
            context.deps.store.jobs.release,
            context.now_ms,
            reason=reason,
            held_class=HeldClass.BUNDLE,
        )
        context.ended = Outcome(End.RELEASED)
        return
    await file_steps.fence(context)
    await _send_register(context, repeated=False)


async def look_up(context: JobContext) -> None:
    """
    Find out whether a register without an answer took effect, before it is repeated.

    A record settles it at once. A missing record settles it only when the register can no longer take
    effect.

    Raises:
        Released: It still can.
        JobError: It still can, and this run sent it; its error.
        Permanent: The server has no listing, and neither the register nor its repeat was answered.
    """
    context.call = Call.LIST_MODELS
    job, deps = context.job, context.deps
    assert job.storage_key is not None, "nothing is registered without one"
    found, listed = await deps.catalog.stored_under(job.storage_key)
    if found is not None:
        await context.note(record_id=found.id)
        return
    if context.unclear is not None:
        context.call = Call.REGISTER
        raise context.unclear
    context.require_past(_register_sent_at(job), Call.REGISTER)
    if listed:
        await context.note(register_sent_at=None, register_repeated_at=None)
    elif job.register_repeated_at is None:
        await _send_register(context, repeated=True)
    else:
        raise Permanent(
            "two registrations were sent and neither was answered, and this server does not "
            "list its models",
            kind=Kind.CONFLICT,
            advice=f"Look whether {job.target.model_path} is in the catalog. If it is not, "
            "touch the file.",
        )


def _register_sent_at(job: Job) -> int:
    """When the last register of *job* was sent, Unix milliseconds."""
    sent_at = job.register_repeated_at or job.register_sent_at
    assert sent_at is not None, "the job has sent one"
    return sent_at


async def _send_register(context: JobContext, *, repeated: bool) -> None:
    context.call = Call.REGISTER
    job, deps = context.job, context.deps
    assert job.storage_key is not None, "stored before"
    assert job.sha256 is not None, "hashed before"
    try:
        record_id = await deps.api.register(
            job.target,
            storage_key=job.storage_key,
            size=job.fingerprint.size,
            sha256=job.sha256,
            intend=lambda: _note_sent(context, context.now_ms, repeated=repeated),
        )
    except JobError as error:
        await _not_registered(context, error, repeated=repeated)
        return
    try:
        await context.note(record_id=record_id)
    except LeaseLost:  # the file changed during the request, but the record is ours
        await deps.lanes.db(deps.store.jobs.settle_doubt, job, record_id, context.now_ms)
        deps.catalog.forget()
        raise
    await context.contact(Side.API)


async def _note_sent(context: JobContext, at_ms: int | None, *, repeated: bool) -> None:
    if repeated:
        await context.note(register_repeated_at=at_ms)
    else:
        await context.note(register_sent_at=at_ms)


async def _not_registered(context: JobContext, error: JobError, *, repeated: bool) -> None:
    """
    Handle a failed register as far as possible at once.

    Raises:
        JobError: *error*, if nothing can.
    """
    if error.unclear and error.retry_after_s is None:
        context.unclear = error  # its record may be there already
        return
    if error.unclear or error.kind is Kind.OBJECT_EXISTS:
        raise error  # the intent stays: the next claim searches the catalog before it repeats anything
    if error.kind is Kind.CONFLICT and repeated:
        # The first one took effect; a server without a listing does not show its id.
        await context.note(record_id=f"unknown:{context.job.storage_key}")
    elif error.kind is Kind.CONFLICT:
        await context.note(register_sent_at=None)
        if not await _disable_predecessor(context):
            await resolve_path_conflict(context)
    else:
        # A refused request had no effect; an earlier one may still have had.
        await _note_sent(context, None, repeated=repeated)
        raise error


async def _disable_predecessor(context: JobContext) -> bool:
    """
    Disable our own record of the path's former bytes, once; True if another try may succeed.

    If the server still refuses the new record, the former one is enabled again.
    """
    job, deps, records = context.job, context.deps, context.deps.store.records
    assert job.sha256 is not None, "hashed before"
    if context.predecessor is not None:
        await _update_record(context, context.predecessor.record_id, ACTIVE, unless=())
        await deps.lanes.db(records.reinstate, context.predecessor)
        return False
    former = await deps.lanes.db(records.predecessor, job.target.model_path, job.sha256)
    if former is None:
        return False
    await deps.lanes.db(records.note_retiring, former, context.now_ms)
    if not await _update_record(context, former.record_id, DISABLED, unless=_NO_CHANGE):
        await deps.lanes.db(records.reinstate, former)
        return False
    reason, now_ms = "its path has new bytes", context.now_ms
    await deps.lanes.db(records.remark, former.record_id, Remark.DISABLED, reason, now_ms)
    await deps.lanes.db(records.note_retired, former, now_ms)
    context.predecessor = former
    return True


async def _blocking_bundle_member(context: JobContext) -> str | None:
    """
    The file that the job's bundle waits for: none is registered before all files are stored.

    The file that is stored last releases the others, if all of them are still on disk.
    """
    job, deps, jobs = context.job, context.deps, context.deps.store.jobs
    if job.target.bundle is None:
        return None
    mate = await deps.lanes.db(jobs.not_stored, job)
    if mate is not None:
        return printable(mate)
    lacking = await deps.lanes.scan(deps.lacking, job)
    if lacking is None:
        await deps.lanes.db(jobs.free_bundles, context.now_ms)
    return lacking


async def finish(context: JobContext) -> None:
    """End the job: its file is in the catalog."""
    job, deps = context.job, context.deps
    assert job.record_id is not None, "the step is taken only with a record"
    if deps.hidden and job.register_sent_at is not None:
        await _hide(context, job.record_id)
    if not await context.write(
        deps.store.jobs.finish, job.record_id, context.now_ms, adopted=job.adopted
    ):
        deps.on_moved(job)
    context.ended = Outcome(End.ADOPTED if job.adopted else End.REGISTERED)


async def _hide(context: JobContext, record_id: str) -> None:
    """Disable the new record; if the server does not support that, agents receive it."""
    if await _update_record(context, record_id, DISABLED, unless=NO_SUCH_CALL):
        await context.deps.lanes.db(context.deps.store.records.note_answered, record_id)
    else:
        _log.warning("record.not_disabled", record_id=record_id)


async def _update_record(
    context: JobContext, record_id: str, changes: Mapping[str, str], *, unless: Collection[Kind]
) -> bool:
    """
    Change a record; False if it does not exist, or the error is one of *unless*.

    After True the caller commits the answer together with what follows from it.

    Raises:
        Released: An earlier change of it may still take effect.
    """
    context.call = Call.UPDATE_MODEL
    deps, records = context.deps, context.deps.store.records
    sent_at = await deps.lanes.db(records.change_sent_at, record_id)
    if sent_at is not None:
        context.require_past(sent_at, context.call)

    async def intend() -> None:
        await deps.lanes.db(records.intend_change, record_id, context.now_ms)

    try:
        there = await deps.api.update_model(record_id, changes, intend=intend)
    except JobError as error:
        if not error.unclear or error.kind in unless:
            await deps.lanes.db(records.note_answered, record_id)
        if error.kind not in unless:
            raise
        return False
    if not there:
        await deps.lanes.db(records.note_answered, record_id)
    return there
