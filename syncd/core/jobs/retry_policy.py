"""
The retry table and the decision about a failure.

The scope of a retry widens step by step. First the *request* is repeated (``request_wait_s``), then it gets
a fresh URL. After that ``decide`` chooses for the *job*: resend parts, upload again, wait in the database,
hold everything, or fail. ``ROWS`` has a row for each kind of failure, ``VARIANTS`` the exceptions.

Delays have full jitter, ``U(0, min(cap, base * 2^n))``, unless a row fixes them. A delay that the server
asks for takes precedence. If it is longer than the request scope allows, the job waits instead, so that no
job keeps its lease while it waits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

from syncd.errors import JobError, NeedsOperator, Offline, Permanent, Retryable, Throttled
from syncd.types import Call, Kind

RETRY_AFTER_MAX_S = 6 * 3600.0  # the longest delay that a server can ask for
PARKED_S = 3600.0

LEAST_PAUSE_S = 5.0
"""
The shortest delay of a job or a hold if the server asks for one, such as ``Retry-After: 0``. It doubles
with each attempt up to the cap of the row, in case a server asks for short delays forever.
"""

ONCE_ATTEMPTS = 5  # of one job in a ``--once`` run

LOOK_FIRST = frozenset(
    {Call.REGISTER, Call.COMPLETE, Call.INITIATE, Call.REFRESH, Call.PAIR_POLL}
    | {Call.UPDATE_MODEL, Call.DELETE_MODEL}
)
"""Calls that are not repeated if the previous one may have taken effect."""

SIGN_IN = frozenset({Call.LOGIN, Call.REFRESH, Call.REVOKE, Call.PAIR_START, Call.PAIR_POLL})
"""Calls that get, renew or end a credential."""


class Next(StrEnum):
    RESEND = "resend"  # send the refused parts again, then complete
    FRESH_UPLOAD = "fresh_upload"  # start again with a new storage key; old parts are void
    LATER = "later"  # the job waits
    PARK = "park"  # the job waits for a long time; `--once` ends without it
    HOLD = "hold"  # all jobs wait
    HOLD_LARGE = "hold_large"  # files too large for one PUT wait for a user session
    FAIL = "fail"  # until the file or the configuration changes
    SWITCH_OFF = "switch_off"  # the server lacks an optional call
    STOP = "stop"  # end the process and keep the progress


@dataclass(frozen=True, slots=True)
class Wait:
    """A delay that doubles from ``base_s`` to ``cap_s``, with jitter; constant if ``fixed``."""

    base_s: float
    cap_s: float
    fixed: bool = False


def always(seconds: float) -> Wait:
    return Wait(seconds, seconds, fixed=True)


AT_ONCE = always(0)
NETWORK_WAIT = Wait(1, 20)
JOB_WAIT = Wait(15, 300)
HOURLY = always(PARKED_S)
TAKEN_WAIT = Wait(60, PARKED_S)  # while a path or key is taken, only time can help


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row of the retry table.

    Attributes:
        then: What happens when the narrower scopes are exhausted.
        tries, request: How often one request is sent, and the delays between those tries.
        renews: Refresh the credential or read it again once. If it changed, repeat the request once.
        resends, fresh_urls, fresh_uploads: The limits of the wider scopes: resends for each job, URLs
            since the last progress, uploads within a day.
        job: Delays before the next attempt of the job.
        job_limit: Failed attempts of this kind until ``at_limit``; None: no limit.
        at_limit: ``FAIL``, or ``PARK`` for an hour and then the same number of attempts again.
        probe: Delays between the probes of a hold.
        free: The attempt does not count.
        fuse: If five files in a row end like this, the server is considered faulty.
        breaker: Counts against the host's circuit breaker.
        event: Logged when the request scope is exhausted.
    """

    then: Next
    error: type[JobError]
    tries: int = 1
    request: Wait = AT_ONCE
    fresh_connection: bool = False
    renews: bool = False
    resends: int = 0
    fresh_urls: int = 0
    fresh_uploads: int = 0
    job: Wait = JOB_WAIT
    job_limit: int | None = None
    at_limit: Next = Next.FAIL
    probe: Wait = Wait(5, 60)
    free: bool = False
    fuse: bool = False
    halves_slots: bool = False
    breaker: bool = False
    event: str | None = None


# fmt: off
ROWS: Mapping[Kind, Row] = {
    Kind.DEAD_CONNECTION: Row(
        Next.LATER, Retryable, tries=2, fresh_connection=True, breaker=True, free=True,
    ),
    Kind.NETWORK: Row(
        Next.LATER, Retryable, tries=4, request=NETWORK_WAIT, breaker=True,
    ),
    Kind.SERVER_TRANSIENT: Row(
        Next.LATER, Retryable, tries=4, request=NETWORK_WAIT, breaker=True,
    ),
    Kind.SERVER_FAULT: Row(
        Next.LATER, Retryable, tries=4, request=NETWORK_WAIT,
        job_limit=8, at_limit=Next.PARK,
    ),
    Kind.STORE_IDLE: Row(
        Next.LATER, Retryable, tries=4, request=NETWORK_WAIT, fresh_connection=True,
    ),
    Kind.API_THROTTLED: Row(
        Next.HOLD, Throttled, tries=2, request=Wait(30, 300), probe=Wait(30, 300), free=True,
    ),
    Kind.STORE_THROTTLED: Row(
        Next.LATER, Retryable, tries=6, request=Wait(2, 60), job=always(60),
        free=True, halves_slots=True,
    ),
    Kind.SESSION_REFUSED: Row(Next.HOLD, NeedsOperator, renews=True, free=True),
    Kind.DEVICE_KEY_REFUSED: Row(Next.HOLD, NeedsOperator, renews=True, free=True),
    Kind.NOT_ALLOWED: Row(Next.HOLD, NeedsOperator, probe=HOURLY, free=True),
    Kind.NEEDS_SIGN_IN: Row(Next.HOLD_LARGE, Retryable, free=True),
    Kind.REQUEST_REFUSED: Row(Next.FAIL, Permanent, fuse=True),
    Kind.ROUTE_UNKNOWN: Row(Next.HOLD, NeedsOperator),
    Kind.CONFLICT: Row(Next.LATER, Retryable, job=TAKEN_WAIT),
    Kind.STORE_CONFLICT: Row(Next.LATER, Retryable, tries=4, request=NETWORK_WAIT),
    Kind.TOO_LARGE: Row(Next.HOLD_LARGE, Retryable, free=True),
    Kind.URL_EXPIRED: Row(Next.LATER, Retryable, fresh_urls=3, job=always(300), free=True),
    Kind.SIGNATURE_REFUSED: Row(Next.FAIL, Retryable, fresh_urls=1, fuse=True),
    Kind.CLOCK_SKEW: Row(Next.HOLD, NeedsOperator, fresh_urls=1, free=True),
    Kind.STORE_ACCESS_DENIED: Row(Next.HOLD, NeedsOperator, fresh_urls=1, probe=HOURLY, free=True),
    Kind.OBJECT_EXISTS: Row(Next.LATER, Retryable, job=TAKEN_WAIT, free=True),
    Kind.OBJECT_MISSING: Row(
        Next.LATER, Retryable, tries=4, request=always(5), fresh_uploads=3,
    ),
    Kind.UPLOAD_GONE: Row(Next.FAIL, Retryable, fresh_uploads=3),
    Kind.DIGEST_MISMATCH: Row(Next.LATER, Retryable, tries=3, event="link.corrupts"),
    Kind.PARTS_REFUSED: Row(Next.FAIL, Retryable, resends=1, fresh_uploads=1),
    Kind.REDIRECTED: Row(Next.HOLD, NeedsOperator),
    Kind.TLS_ERROR: Row(Next.HOLD, NeedsOperator),
    Kind.CAPTIVE_PORTAL: Row(Next.HOLD, Offline, probe=always(60)),
    Kind.INVALID_ANSWER: Row(Next.LATER, Retryable, tries=2, request=NETWORK_WAIT, fuse=True),
    Kind.LOCAL_READ_ERROR: Row(Next.LATER, Retryable, job_limit=5),
    Kind.STATE_ERROR: Row(Next.STOP, NeedsOperator),
    Kind.INTERNAL_ERROR: Row(Next.LATER, Retryable, job_limit=3),
    Kind.OTHER_CLIENT_ERROR: Row(Next.FAIL, Permanent, fuse=True),
}
# fmt: on

_OPTIONAL = replace(ROWS[Kind.ROUTE_UNKNOWN], then=Next.SWITCH_OFF, error=Retryable)
_NOT_AT_ONCE = replace(ROWS[Kind.DEAD_CONNECTION], tries=1)
_STORE_REDIRECT = Row(Next.LATER, Retryable, fresh_urls=1, job=always(900))
_REFUSED_WHOLE = Row(Next.FAIL, Permanent)

LISTING_REFUSED = frozenset(
    {Kind.NOT_ALLOWED, Kind.REQUEST_REFUSED, Kind.TOO_LARGE, Kind.OTHER_CLIENT_ERROR}
)
"""Refusals of the listing. They mean neither that the file is bad nor that the call is missing."""

VARIANTS: Mapping[tuple[Kind, Call], Row] = {
    # Only the job that needs the listing waits.
    **{
        (kind, Call.LIST_MODELS): Row(Next.LATER, Retryable, job=TAKEN_WAIT, free=True)
        for kind in LISTING_REFUSED
    },
    # Only calls that are safe to repeat are repeated at once on a new connection.
    **{(Kind.DEAD_CONNECTION, call): _NOT_AT_ONCE for call in (*LOOK_FIRST, Call.ABORT)},
    # Calls that syncd can do without.
    **{
        (Kind.ROUTE_UNKNOWN, call): _OPTIONAL
        for call in Call
        if call not in (*SIGN_IN, Call.ME, Call.PRESIGN, Call.REGISTER, Call.PUT_BODY)
    },
    # The user waits at the terminal.
    **{(Kind.API_THROTTLED, call): replace(ROWS[Kind.API_THROTTLED], tries=1) for call in SIGN_IN},
    (Kind.REQUEST_REFUSED, Call.COMPLETE): Row(Next.FAIL, Retryable, fresh_uploads=1, fuse=True),
    (Kind.STORE_CONFLICT, Call.COMPLETE): Row(Next.LATER, Retryable, fresh_uploads=1),
    (Kind.DIGEST_MISMATCH, Call.COMPLETE): Row(Next.LATER, Retryable, fresh_uploads=1),
    (Kind.TOO_LARGE, Call.REGISTER): _REFUSED_WHOLE,
    (Kind.TOO_LARGE, Call.COMPLETE): _REFUSED_WHOLE,
    (Kind.REDIRECTED, Call.PUT_BODY): _STORE_REDIRECT,
    (Kind.REDIRECTED, Call.PUT_PART): _STORE_REDIRECT,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """
    A failure, as far as the decision about a retry depends on it.

    ``count`` is how often it has happened, this time included: how often the request was sent, or the
    failed attempts of this job with this kind of failure (within a day if the row allows fresh uploads).
    """

    error: JobError
    call: Call | None
    count: int

    @property
    def row(self) -> Row:
        return row_of(self.error.kind, self.call)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a failure leads to; ``wait_s`` is the wait until the next attempt or the next probe."""

    next: Next
    wait_s: float
    free: bool
    fuse: bool


def row_of(kind: Kind, call: Call | None = None) -> Row:
    return ROWS[kind] if call is None else VARIANTS.get((kind, call), ROWS[kind])


def backoff_s(attempt: int, *, base_s: float, cap_s: float, jitter: float) -> float:
    """
    Return the seconds to wait before the attempt after *attempt* (1-based).

    *jitter* in [0, 1] is drawn by the caller (full jitter).
    """
    ceiling_s: float = min(cap_s, base_s * 2 ** min(attempt - 1, 32))
    return ceiling_s * jitter


def add_jitter(asked_s: float, jitter: float) -> float:
    """Return *asked_s* plus up to 10 %, so that clients do not all come back at once."""
    return asked_s * (1 + 0.1 * jitter)


def retry_after(value: str | None, date: str | None) -> float | None:
    """
    Return the delay of a ``Retry-After`` header, at most six hours; None if it is missing or invalid.

    A date is relative to *date*, the ``Date`` of the same response, as the local clock may be wrong. See
    RFC 9110, section 10.2.3.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[0-9]+", text):
        seconds = float(text)
    elif (now := date_of(date)) is None or (then := date_of(text)) is None:
        return None
    else:
        seconds = (then - now).total_seconds()
    return None if seconds < 0 else min(seconds, RETRY_AFTER_MAX_S)


def date_of(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def request_wait_s(failure: Failure, jitter: float) -> float | None:
    """
    Return the seconds to wait before the same request is sent again; None: do not repeat it.

    A request is not repeated if it may have taken effect, or if the server asks for a longer wait than the
    request scope allows.
    """
    error, row = failure.error, failure.row
    if failure.count >= row.tries or (error.unclear and failure.call in LOOK_FIRST):
        return None
    if error.retry_after_s is None:
        return _wait_s(row.request, failure.count, jitter)
    within = error.retry_after_s <= row.request.cap_s
    return add_jitter(error.retry_after_s, jitter) if within else None


def needs_fresh_url(failure: Failure, urls_spent: int) -> bool:
    return urls_spent < failure.row.fresh_urls


def decide(failure: Failure, *, jitter: float, once: bool, rerouted: bool = False) -> Decision:
    """
    Decide for the job what follows a failure that neither a repeat nor a fresh URL cured.

    Args:
        once: The run is ``--once``: the fifth failed attempt parks the job until the run has ended.
        rerouted: The next attempt sends the file in parts, because one request was too large.
    """
    row = failure.row
    if rerouted:
        return Decision(Next.FRESH_UPLOAD, 0.0, free=True, fuse=row.fuse)
    step, wait = _next_step(failure, once=once)
    wait_s = _asked_or_ours_s(step, wait, failure, jitter)
    return Decision(step, wait_s, row.free, row.fuse)


def _next_step(failure: Failure, *, once: bool) -> tuple[Next, Wait]:
    row, spent = failure.row, failure.count - 1
    if isinstance(failure.error, Permanent):
        return Next.FAIL, AT_ONCE
    if isinstance(failure.error, NeedsOperator) and row.error is not NeedsOperator:
        return Next.HOLD, HOURLY
    if spent < row.resends:
        return Next.RESEND, AT_ONCE
    if spent < row.resends + row.fresh_uploads:
        return Next.FRESH_UPLOAD, AT_ONCE
    if row.job_limit is not None and failure.count >= row.job_limit:
        if row.at_limit is not Next.PARK:
            return row.at_limit, AT_ONCE
        if failure.count % row.job_limit == 0:  # a parked job gets all attempts again
            return Next.PARK, HOURLY
    if once and row.then is Next.LATER and failure.count >= ONCE_ATTEMPTS:
        return Next.PARK, HOURLY
    return row.then, {Next.LATER: row.job, Next.HOLD: row.probe}.get(row.then, AT_ONCE)


def _asked_or_ours_s(step: Next, wait: Wait, failure: Failure, jitter: float) -> float:
    asked_s = failure.error.retry_after_s
    if asked_s is not None and step in (Next.LATER, Next.HOLD):
        cap_s = max(LEAST_PAUSE_S, wait.cap_s)
        least_s = backoff_s(failure.count, base_s=LEAST_PAUSE_S, cap_s=cap_s, jitter=1.0)
        return add_jitter(max(asked_s, least_s), jitter)
    return _wait_s(wait, failure.count, 1.0 if step is Next.HOLD else jitter)


def _wait_s(wait: Wait, n: int, jitter: float) -> float:
    if wait.fixed:
        return wait.base_s
    return backoff_s(n, base_s=wait.base_s, cap_s=wait.cap_s, jitter=jitter)


# -- how long a request whose response was lost may still take effect --------------------------------

LATEST_S = 90.0
"""Seconds after which no server executes a request of a lost client. Proxies give up after 60."""


def late_wait_s(sent_at: int, now_ms: int, latest_s: float) -> float:
    """Return the seconds until a request can no longer take effect, at most *latest_s*."""
    return min(max(0.0, latest_s - (now_ms - sent_at) / 1000), latest_s)


# -- a retry budget for each host, so that an overloaded server does not get a storm of retries -------

FULL = 100
REPEAT_COSTS = 5
TIMEOUT_COSTS = 10  # the request occupied a connection


@dataclass(slots=True)
class Budget:
    """The tokens of one host. Without tokens a request is not repeated, and the job waits instead."""

    tokens: int = FULL

    def worked(self) -> None:
        """Earn a token for a request that succeeded at the first try."""
        self.tokens = min(FULL, self.tokens + 1)

    def spend(self, *, timeout: bool) -> bool:
        """Pay for one retry. Return False and take nothing if there are not enough tokens."""
        price = TIMEOUT_COSTS if timeout else REPEAT_COSTS
        if self.tokens < price:
            return False
        self.tokens -= price
        return True
