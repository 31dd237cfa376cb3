"""Properties of the retry table."""

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.jobs import retry_policy
from syncd.core.jobs.error_mapping import to_error
from syncd.core.jobs.retry_policy import LOOK_FIRST, RETRY_AFTER_MAX_S, VARIANTS, Failure, Next
from syncd.types import Call, Kind

kinds = st.sampled_from(Kind)
calls = st.sampled_from(Call)
cases = st.one_of(
    st.tuples(kinds, st.none() | calls),
    st.sampled_from([*VARIANTS]),
)
jitters = st.floats(0, 1)
attempts = st.integers(1, 10_000)
asked = st.none() | st.floats(0, RETRY_AFTER_MAX_S)
LONGEST_S = 21_600
"""No row waits longer than six hours, whatever the server asks for."""


def failure(
    case: tuple[Kind, Call | None],
    count: int,
    asked_s: float | None = None,
    *,
    unclear: bool = False,
) -> Failure:
    kind, call = case
    error = to_error(kind, "failed", call=call, retry_after_s=asked_s, unclear=unclear)
    return Failure(error, call, count)


@given(cases, attempts, jitters, asked, st.booleans())
def test_wait_is_within_bounds_of_row_and_at_least_what_server_asked(
    case: tuple[Kind, Call | None], attempt: int, jitter: float, asked_s: float | None, once: bool
) -> None:
    decision = retry_policy.decide(failure(case, attempt, asked_s), jitter=jitter, once=once)

    waits = decision.next in (Next.LATER, Next.PARK, Next.HOLD)
    assert 0 <= decision.wait_s <= (1.1 * LONGEST_S if waits else 0)
    if asked_s is not None and decision.next in (Next.LATER, Next.HOLD):
        assert decision.wait_s >= max(asked_s, 5)


@given(st.tuples(kinds, calls), st.integers(1, 20), jitters, asked, st.booleans())
def test_request_is_repeated_as_often_as_its_row_allows_unless_its_outcome_is_unclear(
    case: tuple[Kind, Call], sent: int, jitter: float, asked_s: float | None, unclear: bool
) -> None:
    row = retry_policy.row_of(*case)

    wait_s = retry_policy.request_wait_s(failure(case, sent, asked_s, unclear=unclear), jitter)

    if sent >= row.tries or (unclear and case[1] in LOOK_FIRST):
        assert wait_s is None
    elif asked_s is None:
        assert wait_s is not None
        assert 0 <= wait_s <= row.request.cap_s
    elif wait_s is not None:
        assert asked_s <= wait_s <= 1.1 * row.request.cap_s


@given(cases)
def test_narrow_scopes_are_exhausted_after_as_many_failures_as_row_allows(
    case: tuple[Kind, Call | None],
) -> None:
    row = retry_policy.row_of(*case)
    narrow = row.resends + row.fresh_uploads

    steps = [retry_policy.decide(failure(case, n + 1), jitter=0, once=False) for n in range(9)]

    assert [step.next in (Next.RESEND, Next.FRESH_UPLOAD) for step in steps] == [
        n < narrow for n in range(9)
    ]


@given(attempts, attempts, st.floats(0.001, 3600), st.floats(1, 1000), jitters, jitters)
def test_waits_grow_with_attempts_and_jitter_up_to_the_cap(
    one: int, other: int, base_s: float, times: float, jitter: float, more: float
) -> None:
    def wait_s(attempt: int, jitter: float) -> float:
        return retry_policy.backoff_s(attempt, base_s=base_s, cap_s=base_s * times, jitter=jitter)

    few, many = sorted((one, other))
    assert wait_s(few, jitter) <= wait_s(many, jitter) <= base_s * times
    assert wait_s(few, min(jitter, more)) <= wait_s(few, max(jitter, more))
    assert wait_s(1, 1.0) == base_s


headers = (
    st.none() | st.text(max_size=40) | st.sampled_from(["-1", "NaN", "1e3", "９", "inf", "0x1"])
)


@given(headers, headers)
def test_retry_after_of_any_text_is_none_or_at_most_six_hours(
    value: str | None, date: str | None
) -> None:
    wait_s = retry_policy.retry_after(value, date)

    assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_MAX_S
