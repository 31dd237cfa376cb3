"""What the retry table, the budget and the pace promise for every failure, whatever its numbers."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.jobs import retry_policy
from syncd.core.jobs.retry_budget import FULL, REPEAT_COSTS, TIMEOUT_COSTS, Budget
from syncd.core.jobs.retry_policy import LOOK_FIRST, RETRY_AFTER_MAX_S, VARIANTS, Next
from syncd.core.transfer.pace import SLOWEST_BYTES_PER_S, WINDOW_S, Pace
from syncd.errors import Retryable
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
"""No row waits longer by itself than six hours."""


@given(cases, attempts, jitters, asked, st.booleans())
def test_no_wait_is_longer_than_its_row_allows_nor_shorter_than_the_server_asked(
    case: tuple[Kind, Call | None], attempt: int, jitter: float, asked_s: float | None, once: bool
) -> None:
    decision = retry_policy.decide(
        case[0],
        attempt=attempt,
        jitter=jitter,
        call=case[1],
        retry_after_s=asked_s,
        once=once,
    )

    waits = decision.next in (Next.LATER, Next.PARK, Next.HOLD)
    assert 0 <= decision.wait_s <= (1.1 * LONGEST_S if waits else 0)
    if asked_s is not None and decision.next in (Next.LATER, Next.HOLD):
        assert decision.wait_s >= max(asked_s, 5)


@given(cases, st.integers(1, 20), calls, jitters, asked, st.booleans())
def test_a_request_is_repeated_as_often_as_its_row_says_and_never_in_doubt(
    case: tuple[Kind, Call | None],
    spent: int,
    call: Call,
    jitter: float,
    asked_s: float | None,
    unclear: bool,
) -> None:
    row = retry_policy.row_of(case[0], call)

    wait_s = retry_policy.request_wait_s(
        case[0], spent, call=call, jitter=jitter, retry_after_s=asked_s, unclear=unclear
    )

    if spent >= row.tries or (unclear and call in LOOK_FIRST):
        assert wait_s is None
    elif asked_s is None:
        assert wait_s is not None
        assert 0 <= wait_s <= row.request.cap_s
    elif wait_s is not None:
        assert asked_s <= wait_s <= 1.1 * row.request.cap_s


@given(cases, attempts, st.booleans())
def test_whatever_goes_wrong_again_and_again_the_narrow_scopes_are_used_up_soon(
    case: tuple[Kind, Call | None], attempt: int, parts_named: bool
) -> None:
    spent = {Next.RESEND: 0, Next.FRESH_URL: 0, Next.FRESH_UPLOAD: 0}
    row = retry_policy.row_of(*case)
    bound = row.resends + row.fresh_urls + row.fresh_uploads

    for _ in range(bound + 1):
        step = retry_policy.decide(
            case[0],
            attempt=attempt,
            jitter=0,
            call=case[1],
            resends_spent=spent[Next.RESEND] if parts_named else None,
            fresh_urls_spent=spent[Next.FRESH_URL],
            fresh_uploads_spent=spent[Next.FRESH_UPLOAD],
        ).next
        if step not in spent:
            break
        spent[step] += 1

    assert step not in spent


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
moments = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


@given(headers, headers)
def test_any_text_asks_for_nothing_or_for_at_most_six_hours(
    value: str | None, date: str | None
) -> None:
    wait_s = retry_policy.retry_after(value, date)

    assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_MAX_S


@given(moments, st.integers(-(10**6), 10**6))
def test_a_date_asks_for_as_long_as_it_lies_behind_the_answers_own(
    moment: datetime, later_s: int
) -> None:
    until = format_datetime(moment + timedelta(seconds=later_s))

    wait_s = retry_policy.retry_after(until, format_datetime(moment))

    assert wait_s == (None if later_s < 0 else min(later_s, RETRY_AFTER_MAX_S))
    assert later_s < 0 or retry_policy.retry_after(f" {later_s} ", None) == wait_s


@given(st.lists(st.sampled_from(["worked", "failed", "timed out"]), max_size=200))
def test_a_host_is_never_asked_more_often_again_than_it_earned(story: list[str]) -> None:
    budget, worked, paid = Budget(), 0, 0
    for event in story:
        if event == "worked":
            budget.worked()
            worked += 1
        elif budget.spend(timeout=event == "timed out"):
            paid += TIMEOUT_COSTS if event == "timed out" else REPEAT_COSTS
        else:
            assert budget.tokens < TIMEOUT_COSTS
        assert 0 <= budget.tokens <= FULL

    assert paid <= FULL + worked
    assert budget.tokens <= FULL - paid + worked


moves = st.lists(st.tuples(st.integers(0, 400_000), st.floats(0.01, 400)), max_size=40)


@given(moves)
def test_only_a_body_that_trickled_for_five_minutes_is_broken_off(
    story: list[tuple[int, float]],
) -> None:
    pace, now_s, moved, since_s = Pace(50.0), 50.0, 0, 50.0
    for count, took_s in story:
        now_s, moved = now_s + took_s, moved + count
        slow = moved < SLOWEST_BYTES_PER_S * (now_s - since_s)
        if now_s - since_s >= WINDOW_S and slow:
            with pytest.raises(Retryable) as caught:
                pace.moved(count, now_s)
            assert (caught.value.kind, caught.value.unclear) == (Kind.NETWORK, True)
            return
        pace.moved(count, now_s)
        if now_s - since_s >= WINDOW_S:
            since_s, moved = now_s, 0
    assert not pace.stalled
