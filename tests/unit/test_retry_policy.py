"""The retry table against the rows R01 to R33 of tests/matrix/matrix.md, and how a decision is made."""

from dataclasses import dataclass, field

import pytest

from syncd.core.jobs.error_mapping import to_error
from syncd.core.jobs.retry_policy import (
    FULL,
    LISTING_REFUSED,
    REPEAT_COSTS,
    ROWS,
    TIMEOUT_COSTS,
    Budget,
    Decision,
    Failure,
    Next,
    decide,
    late_wait_s,
    needs_fresh_url,
    request_wait_s,
    retry_after,
    row_of,
)
from syncd.errors import JobError, NeedsOperator, Offline, Permanent, Retryable, Throttled
from syncd.types import Call, Kind

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
STORE = (Call.PUT_BODY, Call.PUT_PART)
MULTIPART = (Call.INITIATE, Call.SIGN_PART, Call.COMPLETE, Call.ABORT)
READS = (Call.ME, Call.LIST_MODELS, Call.GET_MODEL)


def failure(
    kind: Kind,
    call: Call | None = None,
    count: int = 1,
    *,
    retry_after_s: float | None = None,
    unclear: bool = False,
) -> Failure:
    error = to_error(kind, "failed", call=call, retry_after_s=retry_after_s, unclear=unclear)
    return Failure(error, call, count)


def after(
    kind: Kind,
    call: Call | None = None,
    count: int = 1,
    *,
    retry_after_s: float | None = None,
    once: bool = False,
) -> Decision:
    failed = failure(kind, call, count, retry_after_s=retry_after_s)
    return decide(failed, jitter=1.0, once=once)


def request_waits(kind: Kind, call: Call, *, jitter: float = 1.0) -> list[float]:
    """The waits between the tries of one request: one per repeat."""
    waits: list[float] = []
    while (wait_s := request_wait_s(failure(kind, call, len(waits) + 1), jitter)) is not None:
        waits.append(wait_s)
    return waits


@dataclass(frozen=True, slots=True)
class Expected:
    """
    A row of matrix.md for some calls.

    Args:
        repeats: The waits between the tries of a request.
        urls: How many fresh URLs it gets.
        steps: What follows, and after how many seconds, by the number of failures.
    """

    row: str
    kind: Kind
    calls: tuple[Call, ...]
    error: type[JobError]
    steps: dict[int, tuple[Next, float]]
    repeats: list[float] = field(default_factory=list)
    urls: int = 0

    def __str__(self) -> str:
        return f"{self.row}-{self.calls[0]}"


def later(*waits_s: float) -> dict[int, tuple[Next, float]]:
    return {count: (Next.LATER, wait_s) for count, wait_s in enumerate(waits_s, start=1)}


def held(*waits_s: float) -> dict[int, tuple[Next, float]]:
    return {count: (Next.HOLD, wait_s) for count, wait_s in enumerate(waits_s, start=1)}


OFTEN = 10_000
JOB_WAITS = {**later(15, 30, 60, 120, 240, 300), OFTEN: (Next.LATER, 300)}
NETWORK = [1.0, 2.0, 4.0]
PROBES = held(5, 10, 20, 40, 60, 60)
FAILS = {1: (Next.FAIL, 0.0)}
HOLDS_LARGE = {1: (Next.HOLD_LARGE, 0.0)}
UPLOAD_AGAIN = (Next.FRESH_UPLOAD, 0.0)

ROWS_EXPECTED = [
    Expected("R01", Kind.DEAD_CONNECTION, (*READS, Call.PRESIGN, Call.SIGN_PART, *STORE),
             Retryable, JOB_WAITS, repeats=[0]),
    Expected("R01", Kind.DEAD_CONNECTION,
             (Call.REGISTER, Call.COMPLETE, Call.INITIATE, Call.ABORT), Retryable, JOB_WAITS),
    Expected("R02", Kind.NETWORK, (Call.PRESIGN, *STORE), Retryable, JOB_WAITS, repeats=NETWORK),
    Expected("R03", Kind.SERVER_TRANSIENT, STORE, Retryable, JOB_WAITS, repeats=NETWORK),
    Expected("R04", Kind.SERVER_FAULT, (Call.PRESIGN,), Retryable,
             {1: (Next.LATER, 15), 7: (Next.LATER, 300), 8: (Next.PARK, 3600),
              9: (Next.LATER, 300), 16: (Next.PARK, 3600)}, repeats=NETWORK),
    Expected("R05", Kind.STORE_IDLE, STORE, Retryable, JOB_WAITS, repeats=NETWORK),
    Expected("R06", Kind.API_THROTTLED, (Call.PRESIGN, *READS), Throttled,
             held(30, 60, 120, 240, 300, 300), repeats=[30]),
    Expected("R07", Kind.STORE_THROTTLED, STORE, Retryable, later(60, 60, 60),
             repeats=[2, 4, 8, 16, 32]),
    Expected("R08", Kind.SESSION_REFUSED, (Call.PRESIGN,), NeedsOperator, PROBES),
    Expected("R09", Kind.DEVICE_KEY_REFUSED, (Call.PRESIGN,), NeedsOperator, PROBES),
    Expected("R10", Kind.NOT_ALLOWED, (Call.PRESIGN,), NeedsOperator, held(3600, 3600)),
    Expected("R11", Kind.NEEDS_SIGN_IN, (Call.INITIATE,), Retryable, HOLDS_LARGE),
    Expected("R12", Kind.REQUEST_REFUSED, (Call.PRESIGN, Call.REGISTER), Permanent, FAILS),
    Expected("R12", Kind.REQUEST_REFUSED, (Call.COMPLETE,), Retryable,
             {1: UPLOAD_AGAIN, 2: (Next.FAIL, 0)}),
    Expected("R13", Kind.ROUTE_UNKNOWN,
             (Call.LIST_MODELS, Call.UPDATE_MODEL, Call.DELETE_MODEL, *MULTIPART), Retryable,
             {1: (Next.SWITCH_OFF, 0)}),
    Expected("R13", Kind.ROUTE_UNKNOWN, (Call.PRESIGN, Call.REGISTER), NeedsOperator, PROBES),
    Expected("R14", Kind.CONFLICT, (Call.PRESIGN, Call.REGISTER), Retryable, later(60, 120, 240)),
    Expected("R15", Kind.STORE_CONFLICT, STORE, Retryable, JOB_WAITS, repeats=NETWORK),
    Expected("R15", Kind.STORE_CONFLICT, (Call.COMPLETE,), Retryable,
             {1: UPLOAD_AGAIN, 2: (Next.LATER, 30)}),
    Expected("R16", Kind.TOO_LARGE, (Call.PRESIGN, Call.PUT_BODY), Retryable, HOLDS_LARGE),
    Expected("R16", Kind.TOO_LARGE, (Call.REGISTER, Call.COMPLETE), Permanent, FAILS),
    Expected("R17", Kind.URL_EXPIRED, STORE, Retryable, later(300, 300), urls=3),
    Expected("R18", Kind.SIGNATURE_REFUSED, STORE, Retryable, FAILS, urls=1),
    Expected("R19", Kind.CLOCK_SKEW, STORE, NeedsOperator, PROBES, urls=1),
    Expected("R20", Kind.STORE_ACCESS_DENIED, STORE, NeedsOperator, held(3600, 3600), urls=1),
    Expected("R21", Kind.OBJECT_EXISTS, STORE, Retryable,
             {**later(60, 120), 20: (Next.LATER, 3600)}),
    Expected("R22", Kind.OBJECT_MISSING, (Call.REGISTER,), Retryable,
             {1: UPLOAD_AGAIN, 2: UPLOAD_AGAIN, 3: UPLOAD_AGAIN, 4: (Next.LATER, 120)}, repeats=[5, 5, 5]),
    Expected("R23", Kind.UPLOAD_GONE, (Call.PUT_PART, Call.SIGN_PART), Retryable,
             {1: UPLOAD_AGAIN, 2: UPLOAD_AGAIN, 3: UPLOAD_AGAIN, 4: (Next.FAIL, 0)}),
    Expected("R24", Kind.DIGEST_MISMATCH, STORE, Retryable, JOB_WAITS, repeats=[0, 0]),
    Expected("R25", Kind.PARTS_REFUSED, (Call.COMPLETE,), Retryable,
             {1: (Next.RESEND, 0), 2: UPLOAD_AGAIN, 3: (Next.FAIL, 0)}),
    Expected("R26", Kind.REDIRECTED, STORE, Retryable, later(900, 900), urls=1),
    Expected("R26", Kind.REDIRECTED, (Call.PRESIGN,), NeedsOperator, PROBES),
    Expected("R27", Kind.TLS_ERROR, (Call.PRESIGN, *STORE), NeedsOperator, PROBES),
    Expected("R28", Kind.CAPTIVE_PORTAL, (Call.PRESIGN,), Offline, held(60, 60, 60)),
    Expected("R29", Kind.INVALID_ANSWER, (Call.PRESIGN,), Retryable, JOB_WAITS, repeats=[1]),
    Expected("R30", Kind.LOCAL_READ_ERROR, STORE, Retryable,
             {**later(15, 30, 60, 120), 5: (Next.FAIL, 0), 6: (Next.FAIL, 0)}),
    Expected("R31", Kind.STATE_ERROR, (Call.PRESIGN,), NeedsOperator, {1: (Next.STOP, 0)}),
    Expected("R32", Kind.INTERNAL_ERROR, (Call.PRESIGN,), Retryable,
             {**later(15, 30), 3: (Next.FAIL, 0), 4: (Next.FAIL, 0)}),
    Expected("R33", Kind.OTHER_CLIENT_ERROR, (Call.PRESIGN,), Permanent, FAILS),
    *(Expected("I11", kind, (Call.LIST_MODELS,), Retryable,
               {**later(60, 120), 9: (Next.LATER, 3600)}) for kind in sorted(LISTING_REFUSED)),
]  # fmt: skip


@pytest.mark.parametrize("expected", ROWS_EXPECTED, ids=str)
def test_retry_row(expected: Expected) -> None:
    kind = expected.kind
    for call in expected.calls:
        found = {count: after(kind, call, count) for count in expected.steps}

        assert row_of(kind, call).error is expected.error
        assert request_waits(kind, call) == expected.repeats
        assert [needs_fresh_url(failure(kind, call), n) for n in range(expected.urls + 1)] == [
            *[True] * expected.urls, False,
        ]  # fmt: skip
        assert {n: (step.next, step.wait_s) for n, step in found.items()} == expected.steps


def test_retry_rows_cover_every_kind() -> None:
    assert {expected.kind for expected in ROWS_EXPECTED} == set(ROWS) == set(Kind)


@pytest.mark.parametrize(
    "kind", [Kind.NETWORK, Kind.SERVER_TRANSIENT, Kind.SERVER_FAULT, Kind.INVALID_ANSWER]
)
@pytest.mark.parametrize("call", [Call.REGISTER, Call.COMPLETE, Call.INITIATE])
def test_call_that_may_have_taken_effect_is_not_repeated(kind: Kind, call: Call) -> None:
    assert request_wait_s(failure(kind, call, unclear=True), 1.0) is None
    assert request_wait_s(failure(kind, call), 1.0) == 1


def test_permanent_error_fails_job_although_its_row_retries() -> None:
    error = Permanent("taken", kind=Kind.CONFLICT)

    assert decide(Failure(error, Call.REGISTER, 1), jitter=1, once=False).next is Next.FAIL


def test_operator_error_holds_although_its_row_retries() -> None:
    error = NeedsOperator("other host", kind=Kind.INVALID_ANSWER)
    decision = decide(Failure(error, Call.PUT_BODY, 1), jitter=1, once=False)

    assert (decision.next, decision.wait_s) == (Next.HOLD, 3600)


def test_rerouted_file_starts_a_fresh_upload_without_wait_and_free() -> None:
    too_large = failure(Kind.TOO_LARGE, Call.PUT_BODY)
    decision = decide(too_large, jitter=1, once=False, rerouted=True)

    assert decision == Decision(Next.FRESH_UPLOAD, 0.0, free=True, fuse=False)


def test_once_parks_job_at_its_fifth_attempt() -> None:
    steps = [after(Kind.NETWORK, count=n, once=True).next for n in (1, 4, 5, 6)]

    assert steps == [Next.LATER, Next.LATER, Next.PARK, Next.PARK]
    assert after(Kind.OBJECT_EXISTS, Call.PUT_BODY, 5, once=True).next is Next.PARK
    assert after(Kind.NETWORK, count=5, once=True).wait_s == 3600


def test_probe_waits_of_hold_have_no_jitter() -> None:
    waits = [decide(failure(Kind.TLS_ERROR, count=n), jitter=0, once=False) for n in range(1, 7)]

    assert [decision.wait_s for decision in waits] == [5, 10, 20, 40, 60, 60]


@pytest.mark.parametrize("jitter", [0.0, 0.25, 1.0])
def test_waits_of_requests_and_jobs_scale_with_jitter(jitter: float) -> None:
    failures = [failure(Kind.NETWORK, count=n) for n in range(1, 7)]

    assert request_waits(Kind.NETWORK, Call.ME, jitter=jitter) == [jitter * s for s in (1, 2, 4)]
    assert [decide(f, jitter=jitter, once=False).wait_s for f in failures] == [
        jitter * s for s in (15, 30, 60, 120, 240, 300)
    ]


def test_retry_after_of_job_and_hold_is_at_least_five_seconds() -> None:
    hold = after(Kind.API_THROTTLED, Call.REGISTER, retry_after_s=0)
    job = after(Kind.SERVER_TRANSIENT, Call.PUT_BODY, retry_after_s=1)

    assert (hold.next, hold.wait_s) == (Next.HOLD, 5.5)
    assert (job.next, job.wait_s) == (Next.LATER, 5.5)


def test_R06_hold_with_short_retry_after_backs_off_when_the_server_repeats_it() -> None:
    def pause_s(count: int, asked_s: float) -> float:
        failed = failure(Kind.API_THROTTLED, Call.SIGN_PART, count, retry_after_s=asked_s)
        return decide(failed, jitter=0.0, once=False).wait_s

    assert [pause_s(n, 0) for n in (1, 2, 3, 7, 50)] == [5, 10, 20, 300, 300]
    assert [pause_s(n, 60) for n in (1, 4, 5)] == [60, 60, 80]
    assert pause_s(50, 3000) == 3000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("21600", 21600),
        ("21601", 21600),
        ("9" * 5000, 21600),
        ("Thu, 01 Jan 2026 00:01:30 GMT", 90),
        ("Fri, 01 Jan 2027 00:00:00 GMT", 21600),
        ("Thu, 01 Jan 2026 00:01:30 -0000", 90),
    ],
)
def test_retry_after_reads_seconds_and_dates_up_to_six_hours(value: str, seconds: float) -> None:
    assert retry_after(value, DATE) == seconds


NOT_A_DELAY = [
    "", "-1", "+5", "1.5", "NaN", "inf", "1e3", "soon", "١٢",
    "Wed, 31 Dec 2025 23:59:00 GMT",
    "Thu, 99 Jan 2026 00:00:00 GMT",
    "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
]  # fmt: skip


@pytest.mark.parametrize("value", [None, *NOT_A_DELAY])
def test_retry_after_ignores_other_text(value: str | None) -> None:
    assert retry_after(value, DATE) is None


@pytest.mark.parametrize("date", [None, "whenever"])
def test_retry_after_date_needs_date_of_the_answer(date: str | None) -> None:
    assert retry_after("Thu, 01 Jan 2026 00:01:30 GMT", date) is None


@pytest.mark.parametrize(
    ("sent_ago_s", "expected_s"), [(0, 90), (89.5, 0.5), (10_000, 0), (-3600, 90)]
)
def test_I29_I31_lost_request_is_awaited_for_latest_s_at_most(
    sent_ago_s: float, expected_s: float
) -> None:
    now_ms = 10_000_000

    assert late_wait_s(now_ms - int(sent_ago_s * 1000), now_ms, 90) == expected_s


@pytest.mark.parametrize(
    ("tokens", "timeout", "left"),
    [
        (REPEAT_COSTS, False, 0),
        (REPEAT_COSTS - 1, False, None),
        (TIMEOUT_COSTS, True, 0),
        (TIMEOUT_COSTS - 1, True, None),
    ],
)
def test_I16_retry_costs_tokens(tokens: int, timeout: bool, left: int | None) -> None:
    budget = Budget(tokens)

    assert budget.spend(timeout=timeout) is (left is not None)
    assert budget.tokens == (tokens if left is None else left)


def test_I16_successful_requests_earn_tokens_up_to_limit() -> None:
    budget = Budget(tokens=FULL - 1)
    for _ in range(3):
        budget.worked()

    assert budget.tokens == FULL
