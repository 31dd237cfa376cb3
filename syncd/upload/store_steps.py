"""
The steps that bring a job's bytes into the object store: in one request, or as a multipart upload.

The server names the storage key, once for these bytes. What was about to be sent is committed before it
is sent, so an answer that got lost can be told from one that never was.
"""

import asyncio
from functools import partial

from syncd.core.jobs.outcome import Side
from syncd.errors import JobError, Permanent
from syncd.monitoring.progress import Phase
from syncd.types import Call, Kind
from syncd.upload import file_steps, register_steps
from syncd.upload.context import JobContext

ANSWER_PATIENCE_S = 30.0
"""A job that is taken away while an upload is being opened still waits so long for its id."""


async def sign_in(run: JobContext) -> None:
    """
    The file is too large for every route that is open.

    Raises:
        JobError: Always.
    """
    raise run.means.routes.none_for(run.job.fingerprint.size)


# -- a storage key, and a URL for it ---------------------------------------------------------------


async def presign(run: JobContext) -> None:
    """Reserve a storage key and get a URL; a path that is taken by these very bytes is adopted."""
    run.call = Call.PRESIGN
    job, means = run.job, run.means
    try:
        grant = await means.api.presign(job.target, job.fingerprint.size)
    except JobError as error:
        if error.kind is not Kind.CONFLICT:
            raise
        if job.sha256 is None:
            run.hash_first = True  # whether these bytes are there cannot be told yet
        else:
            await register_steps.taken(run)
        return
    await run.contact(Side.API)
    assert grant.storage_key is not None, "checked where the answer came in"
    await means.transfer.check_host(grant)
    await _take_key(run, grant.storage_key)
    run.grant, run.grant_used = grant, False


async def _take_key(run: JobContext, storage_key: str) -> None:
    """
    One storage key, one plan. Where the key is taken and these bytes are not known, read them first.

    Raises:
        Permanent: The key stands for other bytes.
    """
    run.job, usable = await run.write(run.means.store.jobs.note_key, storage_key)
    if usable:
        return
    if run.job.sha256 is None:
        run.hash_first = True
        return
    raise Permanent(
        f"the server gave the storage key of other bytes for {run.job.target.model_path}",
        kind=Kind.OBJECT_EXISTS,
        advice="Nothing was sent. Give the changed file a new name, or ask the "
        "operator of the cloud why storage keys repeat.",
    )


def has_url(run: JobContext) -> bool:
    """Is there a URL to send the body to?"""
    if run.grant is None:
        return False
    # One that was never used is used whatever its life: some servers sign for seconds only.
    return not run.grant_used or run.means.transfer.is_live(run.grant)


# -- in one request --------------------------------------------------------------------------------


async def put(run: JobContext) -> None:
    """One try; the loop comes back here, or to presign, for the next."""
    run.call = Call.PUT_BODY
    means = run.means
    assert run.grant is not None, "the step is taken only with a live URL"
    means.meter.phase(run.job.id, Phase.SENDING)
    sent_before = run.job.body_sent_at is not None
    await run.note(body_sent_at=means.clock.now_ms())
    run.grant_used = True
    try:
        await means.transfer.whole(run.job, run.grant, run.stop)
    except JobError as error:
        if not (sent_before or error.unclear):  # so nothing of ours is under that key
            await run.note(body_sent_at=None)
        if error.kind is Kind.OBJECT_EXISTS:
            await _exists(run, error, ours=sent_before)
        elif await means.transfer.again(run.tries, error, Call.PUT_BODY):
            run.grant = None
        return
    await run.contact(Side.STORE)
    await _stored(run)


async def _exists(run: JobContext, error: JobError, *, ours: bool) -> None:
    """
    The store holds an object under our key already.

    Ours: an earlier body got through and its answer was lost; a single PUT is all or nothing
    and its length is signed. Not ours: never register it, ask for another key once, and if the
    server insists on this one, stop.

    Raises:
        Permanent: The server insists.
        JobError: *error*: the store says so of the other key, too. Perhaps it says so of all.
    """
    if ours:
        await _stored(run)
        return
    key = run.job.storage_key
    if run.foreign_key == key:
        raise Permanent(
            "the object store already holds something under the key that the server gives for "
            f"{run.job.target.model_path}",
            kind=Kind.OBJECT_EXISTS,
            advice="Nothing was registered. Remove the old object, or give the file a new name.",
        )
    if run.foreign_key is not None:
        raise error
    run.foreign_key, run.grant = key, None


# -- in parts --------------------------------------------------------------------------------------


async def initiate(run: JobContext) -> None:
    """Once asked for, an upload's id is waited for and kept, even if the job is taken away."""
    run.call = Call.INITIATE
    opening = asyncio.create_task(_open(run))
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait({opening}, timeout=ANSWER_PATIENCE_S)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        raise


async def _open(run: JobContext) -> None:
    job, means = run.job, run.means
    assert job.storage_key is not None, "presigned before"
    upload = await means.api.initiate(job.storage_key, job.fingerprint.size)
    await run.contact(Side.API)
    run.job = await run.write(means.store.jobs.note_upload, upload)


async def complete(run: JobContext) -> None:
    """Let the store put the parts together, unless the file is not what was sent of it any more."""
    run.call = Call.COMPLETE
    means = run.means
    sent_at = run.job.complete_sent_at
    if sent_at is not None:
        run.require_past(sent_at, Call.COMPLETE)
    means.meter.phase(run.job.id, Phase.FINISHING)
    await file_steps.fence(run)
    await file_steps.compare_leaves(run)
    etags = await means.lanes.db(means.store.jobs.etags, run.job)
    try:
        await means.api.complete(
            run.upload,
            list(etags.items()),
            again=sent_at is not None,
            intend=partial(run.intend, "complete_sent_at"),
        )
    except JobError as error:
        if error.kind is not Kind.UPLOAD_GONE or sent_at is None:
            if not error.unclear:  # refused: only an earlier one may have taken effect
                await run.note(complete_sent_at=sent_at)
            raise
        # An earlier complete was sent: register tells whether the object is there.
    await run.contact(Side.API)
    await _stored(run)


async def _stored(run: JobContext) -> None:
    run.job = await run.write(run.means.store.jobs.note_stored)
