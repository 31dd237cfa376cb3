"""
The steps that bring a job's bytes into the object store: in one request, or as a multipart upload.

The server chooses the storage key, once for these bytes. Each intent is committed before its request, so
after a crash syncd knows which requests may have taken effect.
"""

import asyncio

from syncd.core.jobs.outcome import Side
from syncd.errors import JobError, Permanent
from syncd.monitoring.progress import Phase
from syncd.types import Call, Kind
from syncd.upload import file_steps, register_steps
from syncd.upload.context import DAY_IS_FULL, JobContext, Released

ANSWER_PATIENCE_S = 30.0
"""How long a cancelled job waits for the id of an upload that is being opened."""


async def sign_in(context: JobContext) -> None:
    """
    Fail because the file is too large for every available route.

    Raises:
        JobError: Always.
    """
    raise context.deps.routes.none_for(context.job.fingerprint.size)


async def presign(context: JobContext) -> None:
    """Reserve a storage key and get a URL; adopt a record that already has these bytes."""
    context.call = Call.PRESIGN
    job, deps = context.job, context.deps
    try:
        grant = await deps.api.presign(job.target, job.fingerprint.size)
    except JobError as error:
        if error.kind is not Kind.CONFLICT:
            raise
        if job.sha256 is None:
            context.hash_first = True  # only its hash shows whether the catalog has it
        else:
            await register_steps.resolve_path_conflict(context)
        return
    await context.contact(Side.API)
    assert grant.storage_key is not None, "checked when the answer was read"
    await deps.transfer.check_host(grant)
    await _take_key(context, grant.storage_key)
    context.grant, context.grant_used = grant, False


async def _take_key(context: JobContext, storage_key: str) -> None:
    """
    Commit the key; one key stands for one content. If it is in use and the hash unknown, hash first.

    Raises:
        Permanent: The key belongs to other bytes.
    """
    context.job, usable = await context.write(
        context.deps.store.uploads.note_key, storage_key, context.now_ms
    )
    if usable:
        return
    if context.job.sha256 is None:
        context.hash_first = True
        return
    raise Permanent(
        f"the server gave the storage key of other bytes for {context.job.target.model_path}",
        kind=Kind.OBJECT_EXISTS,
        advice="Nothing was sent. Give the changed file a new name, or ask the "
        "operator of the cloud why storage keys repeat.",
    )


def has_url(context: JobContext) -> bool:
    """Return whether there is a usable URL for the body."""
    if context.grant is None:
        return False
    # An unused URL is usable whatever its remaining life: some servers sign for seconds only.
    return not context.grant_used or context.deps.transfer.is_live(context.grant)


async def put(context: JobContext) -> None:
    """
    Send the body once; for another try the worker returns here or to presign.

    The wait for a slot may be long, so what allowed this step is checked again after it.

    Raises:
        Released: The worker winds down, or the daily limit is reached.
    """
    context.call = Call.PUT_BODY
    deps = context.deps
    assert context.grant is not None, "the step is taken only with a live URL"
    deps.meter.phase(context.job.id, Phase.SENDING)
    sent_before, failure = context.job.body_sent_at is not None, None
    async with deps.transfer.slot():
        if context.leaving.is_set():
            raise Released(context.leaving.reason)
        if not await deps.transfer.may_send():
            raise Released(DAY_IS_FULL)
        if deps.transfer.has_expired(context.grant):
            context.grant = None
            return
        await context.note(body_sent_at=context.now_ms)
        context.grant_used = True
        try:
            await deps.transfer.whole(context.job, context.grant, context.stop)
        except JobError as error:
            failure = error
    if failure is not None:
        await _not_stored(context, failure, sent_before=sent_before)
        return
    await _stored(context)
    await context.contact(Side.STORE)


async def _not_stored(context: JobContext, error: JobError, *, sent_before: bool) -> None:
    if not (sent_before or error.unclear):  # so nothing of ours is under that key
        await context.note(body_sent_at=None)
    if error.kind is Kind.OBJECT_EXISTS:
        await _exists(context, error, ours=sent_before)
    elif await context.deps.transfer.again(context.tries, error, Call.PUT_BODY):
        context.grant = None


async def _exists(context: JobContext, error: JobError, *, ours: bool) -> None:
    """
    Handle an object that already exists under our key.

    If an earlier body was sent, the object is ours and its answer was lost: a single PUT is all or
    nothing and its length is signed. Otherwise it is never registered: ask for another key once,
    and stop if the server returns the same one.

    Raises:
        Permanent: The server returned the same key again.
        JobError: *error*, if the second key is in use as well; perhaps the store says so of every key.
    """
    if ours:
        await _stored(context)
        return
    key = context.job.storage_key
    if context.foreign_key == key:
        raise Permanent(
            "the object store already holds something under the key that the server gives for "
            f"{context.job.target.model_path}",
            kind=Kind.OBJECT_EXISTS,
            advice="Nothing was registered. Remove the old object, or give the file a new name.",
        )
    if context.foreign_key is not None:
        raise error
    context.foreign_key, context.grant = key, None


async def initiate(context: JobContext) -> None:
    """Open an upload; wait for its id and commit it even if the job is cancelled."""
    context.call = Call.INITIATE
    opening = asyncio.create_task(_open(context))
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait({opening}, timeout=ANSWER_PATIENCE_S)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        raise


async def _open(context: JobContext) -> None:
    job, deps = context.job, context.deps
    assert job.storage_key is not None, "presigned before"
    upload = await deps.api.initiate(job.storage_key, job.fingerprint.size)
    context.job = await context.write(deps.store.uploads.note_upload, upload, context.now_ms)
    await context.contact(Side.API)


async def complete(context: JobContext) -> None:
    """Complete the upload if the file still has the bytes that were sent."""
    context.call = Call.COMPLETE
    deps = context.deps
    sent_at = context.job.complete_sent_at
    if sent_at is not None:
        context.require_past(sent_at, Call.COMPLETE)
    deps.meter.phase(context.job.id, Phase.FINISHING)
    await file_steps.fence(context)
    await file_steps.compare_leaves(context)
    etags = await deps.lanes.db(deps.store.uploads.etags, context.job)

    async def intend() -> None:
        await context.note(complete_sent_at=context.now_ms)

    try:
        await deps.api.complete(
            context.upload,
            list(etags.items()),
            again=sent_at is not None,
            intend=intend,
        )
    except JobError as error:
        if error.kind is not Kind.UPLOAD_GONE or sent_at is None:
            if not error.unclear:  # refused: only an earlier one may have taken effect
                await context.note(complete_sent_at=sent_at)
            raise
        # An earlier complete was sent; register will show whether the object exists.
    await _stored(context)
    await context.contact(Side.API)


async def _stored(context: JobContext) -> None:
    context.job = await context.write(context.deps.store.uploads.note_stored, context.now_ms)
