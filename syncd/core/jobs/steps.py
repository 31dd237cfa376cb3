"""
What a job needs next, read from the facts known of it.

Start and resume are the same question. The order matters: the cheapest way to be finished is asked
first, and nothing is sent before the answer to what was sent before it is known.
"""

from enum import StrEnum

from syncd.core.jobs.parts import Route
from syncd.types import Job


class Step(StrEnum):
    """One thing a worker does before it asks again."""

    PLAN = "plan"  # read the file: SHA-256 and leaf digests
    ADOPT = "adopt"  # the same bytes stand at that path in the catalog: no byte is sent
    PRESIGN = "presign"  # reserve a storage key, get a URL
    MOVE = "move"  # a record of ours holds these bytes for a path that is gone: it was renamed
    PUT = "put"  # send the body in one request
    SIGN_IN = "sign_in"  # too large for this credential: wait for a person
    INITIATE = "initiate"  # open a multipart upload
    PARTS = "parts"  # send the parts that have no etag, and read the file beside it if nobody has
    COMPLETE = "complete"
    LOOK_UP = "look_up"  # a register was sent and its answer never came
    REGISTER = "register"
    FINISH = "finish"


def next_step(
    job: Job,
    *,
    route: Route,
    granted: bool,
    missing: int,
    known: bool,
    movable: bool,
    not_in_catalog: bool,
) -> Step:
    """
    The next step of *job*.

    Args:
        route: How a file of this size travels with the credential in force.
        granted: A live upload URL for ``job.storage_key`` is in memory (it is never stored).
        missing: Parts without a committed etag; ignored while there is no upload.
        known: The catalog is known to hold these bytes at this path.
        movable: It holds them at a path whose file is gone, and a record can be moved there.
        unheard_of: Nothing suggests that the catalog holds these bytes, so parts may leave while
            the file is still being hashed. Asked only while its hash is not known.
    """
    if job.record_id is not None:
        return Step.FINISH
    if job.sha256 is None:
        beside = not_in_catalog and route is Route.MULTIPART and (missing or job.upload_id is None)
        return _multipart_step(job, missing) if beside else Step.PLAN
    if job.register_sent_at is not None:
        return Step.LOOK_UP
    if job.stored_at is not None:
        return Step.REGISTER
    if known:
        return Step.ADOPT
    if movable:
        return Step.MOVE
    if route is Route.NEEDS_SIGN_IN:
        return Step.SIGN_IN
    if route is Route.MULTIPART:
        return _multipart_step(job, missing)
    return Step.PUT if granted and job.storage_key is not None else Step.PRESIGN


def _multipart_step(job: Job, missing: int) -> Step:
    if job.storage_key is None:
        return Step.PRESIGN
    if job.upload_id is None:
        return Step.INITIATE
    return Step.PARTS if missing else Step.COMPLETE
