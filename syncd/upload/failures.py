"""
How a job ends or is given back, with an error and without one.

Errors arrive here after retries of the request and of the URL have failed. The retry table
(``core.jobs.retry_policy``) says what follows; here that is carried out.
"""

from contextlib import suppress
from typing import Any

import structlog

from syncd.core.jobs import retry_policy
from syncd.core.jobs.outcome import End, Outcome
from syncd.core.jobs.parts import Route
from syncd.errors import JobError, LeaseLost, Permanent, StateError
from syncd.monitoring.progress import Tally
from syncd.types import Call, HeldClass, Kind
from syncd.upload.context import JobContext

DAY_MS = 24 * 3600 * 1000

_log = structlog.get_logger(__name__)


async def handle_error(context: JobContext, error: JobError) -> Outcome:
    """
    Do what the retry policy decides about *error*.

    Raises:
        StateError: The policy stops the process.
    """
    try:
        decision = await _decide(context, error)
        context.ended = await _apply(context, error, decision)
    except LeaseLost:
        return abandon(context)
    return context.ended


async def _decide(context: JobContext, error: JobError) -> retry_policy.Decision:
    deps, row = context.deps, retry_policy.row_of(error.kind, context.call)
    count = await context.write(
        deps.store.jobs.count_attempt,
        error.kind,
        context.now_ms,
        window_ms=DAY_MS if row.fresh_uploads else None,
    )
    one_request = context.route is Route.PUT and context.call in (Call.PRESIGN, Call.PUT_BODY)
    too_large = error.kind is Kind.TOO_LARGE and one_request
    return retry_policy.decide(
        retry_policy.Failure(error, context.call, count),
        jitter=deps.jitter(),
        once=deps.once,
        rerouted=too_large and deps.routes.turned_down(context.job.fingerprint.size),
    )


async def _apply(context: JobContext, error: JobError, decision: retry_policy.Decision) -> Outcome:
    deps, jobs, job, reason = context.deps, context.deps.store.jobs, context.job, str(error)
    if isinstance(error, Permanent) and error.kind is Kind.LOCAL_READ_ERROR:
        await deps.lanes.db(
            deps.store.files.mark_unreadable,
            job.root_id, job.rel_path, reason, context.now_ms,
        )  # fmt: skip
    fields: dict[str, Any] = {
        "kind": str(error.kind), "error": reason, "wait_s": decision.wait_s
    }  # fmt: skip
    match decision.next:
        case retry_policy.Next.HOLD:
            with suppress(LeaseLost):  # what the server asked for holds for the others, too
                await context.write(
                    jobs.release, context.now_ms, reason=reason, advice=error.advice
                )
            _log.error("job.held", **fields)
            return Outcome(End.HELD, error, decision.wait_s)
        case retry_policy.Next.HOLD_LARGE:
            await context.write(
                jobs.release,
                context.now_ms,
                reason=reason,
                advice=error.advice,
                held_class=HeldClass.LARGE,
            )
            _log.warning("job.needs_sign_in", **fields)
            return Outcome(End.NEEDS_SIGN_IN, error)
        case retry_policy.Next.FAIL:
            await context.write(
                jobs.reject, context.now_ms, kind=error.kind, reason=reason, advice=error.advice
            )
            _log.error("job.failed", **fields, advice=error.advice)
            return Outcome(End.FAILED, error, fuse=decision.fuse)
        case retry_policy.Next.STOP:
            raise StateError(reason)
        case retry_policy.Next.RESEND:
            await context.write(deps.store.uploads.drop_parts, context.now_ms)
        case retry_policy.Next.FRESH_UPLOAD:
            context.job = await context.write(
                deps.store.uploads.fresh_upload, context.now_ms, gone=error.kind is Kind.UPLOAD_GONE
            )
    await context.write(
        jobs.retry,
        context.now_ms,
        run_after=context.now_ms + int(decision.wait_s * 1000),
        kind=error.kind,
        reason=reason,
        advice=error.advice,
        free=decision.free,
    )
    deps.meter.count(Tally.RETRY, "job")
    _log.warning("job.retry_scheduled", **fields)
    fuse = decision.fuse and decision.next is not retry_policy.Next.FRESH_UPLOAD
    return Outcome(End.LATER, error, decision.wait_s, fuse)


async def supersede(context: JobContext, error: JobError) -> Outcome:
    """End the job because its file has changed; the file is examined again."""
    try:
        await context.write(context.deps.store.jobs.supersede, context.now_ms, reason=str(error))
    except LeaseLost:
        return abandon(context)
    _log.info("job.superseded", reason=str(error))
    context.deps.on_moved(context.job)
    return abandon(context)


def abandon(context: JobContext) -> Outcome:
    """Stop without a commit: the job is no longer ours."""
    context.deps.meter.drop(context.job.id)
    context.ended = Outcome(End.SUPERSEDED)
    return context.ended


async def release(context: JobContext, reason: str, wait_s: float = 0.0) -> Outcome:
    """Give the job back; the attempt does not count. It waits for at least *wait_s* seconds."""
    try:
        await context.write(
            context.deps.store.jobs.release,
            context.now_ms,
            reason=reason,
            wait_ms=int(wait_s * 1000),
        )
    except LeaseLost:
        return Outcome(End.LOST)
    _log.info("job.released")
    return Outcome(End.RELEASED)
