"""
The next step of a job, computed from its facts.

Start and resume use the same function. The order of the checks matters: the cheapest way to finish comes
first, and nothing is sent before the result of the previous call is known.
"""

from enum import StrEnum

from syncd.core.jobs.parts import Route
from syncd.types import Job


class Step(StrEnum):
    HASH = "hash"  # read the file: SHA-256 and leaf digests
    ADOPT = "adopt"  # the catalog has the same content at this path: send nothing
    PRESIGN = "presign"  # reserve a storage key, get a URL
    MOVE = "move"  # the file was renamed: change the path of its record
    PUT = "put"  # send the body in one request
    SIGN_IN = "sign_in"  # too large for this credential
    INITIATE = "initiate"  # open a multipart upload
    PARTS = "parts"  # send the parts without an etag, and hash the file at the same time if needed
    COMPLETE = "complete"
    LOOK_UP = "look_up"  # find out whether a register call without a response took effect
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
    Return the next step of *job*.

    Args:
        granted: A valid upload URL for ``job.storage_key`` is in memory. URLs are never stored.
        missing: The number of parts without a committed etag; ignored if there is no upload.
        known: The catalog has this content at this path.
        movable: It has this content at a path whose file is gone, and the record can be moved.
        not_in_catalog: Nothing suggests that the catalog has this content, so parts may be sent while
            the file is hashed.
    """
    if job.record_id is not None:
        return Step.FINISH
    if job.sha256 is None:
        beside = not_in_catalog and route is Route.MULTIPART and (missing or job.upload_id is None)
        return _multipart_step(job, missing) if beside else Step.HASH
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
