"""The retry table, row by row, as the reliability page states it."""

import math
from typing import Any

import pytest

from syncd.core.jobs.retry_policy import (
    LISTING_REFUSED,
    ROWS,
    Decision,
    Next,
    add_jitter,
    backoff_s,
    decide,
    request_wait_s,
    retry_after,
    row_of,
)
from syncd.errors import Hold, JobError, NeedsOperator, Offline, Permanent, Retryable, Throttled
from syncd.types import Call, Kind

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
STORE = (Call.PUT_BODY, Call.PUT_PART)
MULTIPART = (Call.INITIATE, Call.SIGN_PART, Call.COMPLETE, Call.ABORT)


def waits(kind: Kind, call: Call, *, jitter: float = 1.0) -> list[float]:
    """The waits between the tries of one request: as many as there are repeats."""
    found: list[float] = []
    while (wait := request_wait_s(kind, len(found) + 1, call=call, jitter=jitter)) is not None:
        found.append(wait)
    return found


def after(kind: Kind, call: Call | None = None, attempt: int = 1, **spent: Any) -> Decision:
    return decide(kind, call=call, attempt=attempt, jitter=1.0, **spent)


def steps(kind: Kind, call: Call, attempts: range) -> list[tuple[Next, float]]:
    found = [after(kind, call, attempt) for attempt in attempts]
    return [(decision.next, decision.wait_s) for decision in found]


def test_every_kind_has_a_row() -> None:
    assert set(ROWS) == set(Kind)


def test_R01_dead_connection_repeats_at_once_on_a_new_one_then_goes_on_as_network_free() -> None:
    for call in (Call.ME, Call.LIST_MODELS, Call.GET_MODEL, Call.PRESIGN, Call.SIGN_PART, *STORE):
        assert waits(Kind.DEAD_CONNECTION, call) == [0.0]
    for call in (Call.REGISTER, Call.COMPLETE, Call.INITIATE, Call.ABORT):
        assert waits(Kind.DEAD_CONNECTION, call) == []
    decision, row = after(Kind.DEAD_CONNECTION, Call.PUT_BODY), row_of(Kind.DEAD_CONNECTION)
    assert decision == Decision(Next.LATER, 15.0, free=True, fuse=False)
    assert row.fresh_connection
    assert row.breaker
    assert row.error is Retryable


def test_R02_network_takes_four_tries_then_unlimited_attempts_and_counts_for_the_breaker() -> None:
    assert waits(Kind.NETWORK, Call.PRESIGN) == [1, 2, 4]
    assert request_wait_s(Kind.NETWORK, 3, call=Call.ME, jitter=0.5) == 2
    assert [wait for _, wait in steps(Kind.NETWORK, Call.PRESIGN, range(1, 8))] == [
        15, 30, 60, 120, 240, 300, 300,
    ]  # fmt: skip
    assert after(Kind.NETWORK, Call.PRESIGN, 100_000) == Decision(Next.LATER, 300.0, False, False)
    assert row_of(Kind.NETWORK).breaker
    assert row_of(Kind.NETWORK).error is Retryable


def test_R03_server_transient_is_treated_like_the_network() -> None:
    assert waits(Kind.SERVER_TRANSIENT, Call.PUT_PART) == [1, 2, 4]
    assert after(Kind.SERVER_TRANSIENT, attempt=10_000).next is Next.LATER
    assert row_of(Kind.SERVER_TRANSIENT).breaker
    assert row_of(Kind.SERVER_TRANSIENT).error is Retryable


def test_R04_server_fault_parks_for_an_hour_after_each_eight_attempts() -> None:
    assert waits(Kind.SERVER_FAULT, Call.PRESIGN) == [1, 2, 4]
    found = [step for step, _ in steps(Kind.SERVER_FAULT, Call.PRESIGN, range(1, 18))]
    assert found == [*[Next.LATER] * 7, Next.PARK, *[Next.LATER] * 7, Next.PARK, Next.LATER]
    assert after(Kind.SERVER_FAULT, attempt=8).wait_s == 3600
    assert not row_of(Kind.SERVER_FAULT).breaker
    assert row_of(Kind.SERVER_FAULT).error is Retryable


def test_R05_store_idle_takes_four_tries_each_on_a_new_connection() -> None:
    assert len(waits(Kind.STORE_IDLE, Call.PUT_PART)) == 3
    assert row_of(Kind.STORE_IDLE).fresh_connection
    assert after(Kind.STORE_IDLE, Call.PUT_PART, 10_000).next is Next.LATER


def test_R06_api_throttle_obeys_retry_after_else_backs_off_from_30_s_then_holds_free() -> None:
    assert request_wait_s(
        Kind.API_THROTTLED, 1, call=Call.PRESIGN, retry_after_s=120, jitter=0
    ) == pytest.approx(120)
    assert waits(Kind.API_THROTTLED, Call.PRESIGN)[0] == 30
    decision = after(Kind.API_THROTTLED, Call.PRESIGN, retry_after_s=600)
    assert decision == Decision(Next.HOLD, 660.0, free=True, fuse=False)
    assert [w for _, w in steps(Kind.API_THROTTLED, Call.ME, range(1, 7))] == [
        30, 60, 120, 240, 300, 300,
    ]  # fmt: skip
    assert row_of(Kind.API_THROTTLED).error is Throttled


def test_R07_store_throttle_takes_six_tries_halves_the_slots_then_waits_a_minute_free() -> None:
    assert waits(Kind.STORE_THROTTLED, Call.PUT_PART) == [2, 4, 8, 16, 32]
    assert row_of(Kind.STORE_THROTTLED).request.cap_s == 60
    assert row_of(Kind.STORE_THROTTLED).halves_slots
    assert steps(Kind.STORE_THROTTLED, Call.PUT_PART, range(1, 4)) == [(Next.LATER, 60)] * 3
    assert after(Kind.STORE_THROTTLED, Call.PUT_PART).free


@pytest.mark.parametrize("kind", [Kind.SESSION_REFUSED, Kind.DEVICE_KEY_REFUSED])
def test_R08_R09_refused_credential_is_renewed_once_and_then_holds_free(kind: Kind) -> None:
    assert row_of(kind).renews
    assert waits(kind, Call.PRESIGN) == []
    assert after(kind, Call.PRESIGN).next is Next.HOLD
    assert after(kind, Call.PRESIGN).free
    assert row_of(kind).error is NeedsOperator


def test_R08_session_refused_is_renewed() -> None:
    assert row_of(Kind.SESSION_REFUSED).renews


def test_R09_device_key_refused_reads_its_source_again() -> None:
    assert row_of(Kind.DEVICE_KEY_REFUSED).renews


def test_only_refused_credentials_are_renewed() -> None:
    renewing = {kind for kind, row in ROWS.items() if row.renews}

    assert renewing == {Kind.SESSION_REFUSED, Kind.DEVICE_KEY_REFUSED}


def test_R10_not_allowed_holds_free_probing_hourly() -> None:
    assert waits(Kind.NOT_ALLOWED, Call.PRESIGN) == []
    assert steps(Kind.NOT_ALLOWED, Call.PRESIGN, range(1, 4)) == [(Next.HOLD, 3600)] * 3
    assert after(Kind.NOT_ALLOWED, Call.PRESIGN).free
    assert row_of(Kind.NOT_ALLOWED).error is NeedsOperator


def test_R11_needs_sign_in_holds_large_files_only_and_free() -> None:
    assert waits(Kind.NEEDS_SIGN_IN, Call.INITIATE) == []
    assert after(Kind.NEEDS_SIGN_IN, Call.INITIATE).next is Next.HOLD_LARGE
    assert after(Kind.NEEDS_SIGN_IN, Call.INITIATE).free
    assert not issubclass(row_of(Kind.NEEDS_SIGN_IN).error, Hold)


def test_R12_our_data_fails_at_once_with_fuse_and_a_refused_complete_begins_anew_once() -> None:
    assert waits(Kind.REQUEST_REFUSED, Call.REGISTER) == []
    for call in (Call.PRESIGN, Call.REGISTER):
        assert after(Kind.REQUEST_REFUSED, call) == Decision(Next.FAIL, 0.0, free=False, fuse=True)
    assert row_of(Kind.REQUEST_REFUSED).error is Permanent
    assert after(Kind.REQUEST_REFUSED, Call.COMPLETE).next is Next.FRESH_UPLOAD
    assert after(Kind.REQUEST_REFUSED, Call.COMPLETE, fresh_uploads_spent=1).next is Next.FAIL


def test_R13_unknown_route_switches_optional_calls_off_and_holds_for_the_others() -> None:
    for call in (Call.LIST_MODELS, Call.UPDATE_MODEL, Call.DELETE_MODEL, *MULTIPART):
        assert waits(Kind.ROUTE_UNKNOWN, call) == []
        assert after(Kind.ROUTE_UNKNOWN, call).next is Next.SWITCH_OFF
        assert not issubclass(row_of(Kind.ROUTE_UNKNOWN, call).error, Hold | Permanent)
    for call in (Call.PRESIGN, Call.REGISTER):
        assert waits(Kind.ROUTE_UNKNOWN, call) == []
        assert after(Kind.ROUTE_UNKNOWN, call).next is Next.HOLD
        assert row_of(Kind.ROUTE_UNKNOWN, call).error is NeedsOperator


def test_I11_refused_listing_delays_its_own_job_and_is_no_missing_listing() -> None:
    for kind in LISTING_REFUSED:
        assert steps(kind, Call.LIST_MODELS, range(1, 3)) == [(Next.LATER, 60), (Next.LATER, 120)]
        assert steps(kind, Call.LIST_MODELS, range(9, 10)) == [(Next.LATER, 3600)]
        assert after(kind, Call.LIST_MODELS).free
    assert after(Kind.ROUTE_UNKNOWN, Call.LIST_MODELS).next is Next.SWITCH_OFF


def test_R14_a_conflict_that_a_look_did_not_solve_waits_longer_each_time() -> None:
    for call in (Call.PRESIGN, Call.REGISTER):
        assert waits(Kind.CONFLICT, call) == []
        assert steps(Kind.CONFLICT, call, range(1, 3)) == [(Next.LATER, 60), (Next.LATER, 120)]


def test_R15_store_conflict_repeats_a_put_four_times_and_a_complete_begins_anew_once() -> None:
    for call in STORE:
        assert waits(Kind.STORE_CONFLICT, call) == [1, 2, 4]
        assert after(Kind.STORE_CONFLICT, call).next is Next.LATER
    assert waits(Kind.STORE_CONFLICT, Call.COMPLETE) == []
    assert after(Kind.STORE_CONFLICT, Call.COMPLETE).next is Next.FRESH_UPLOAD
    assert after(Kind.STORE_CONFLICT, Call.COMPLETE, fresh_uploads_spent=1).next is Next.LATER


def test_R16_too_large_holds_large_files_free_but_fails_what_was_stored_already() -> None:
    for call in (Call.PRESIGN, Call.PUT_BODY):
        assert waits(Kind.TOO_LARGE, call) == []
        assert after(Kind.TOO_LARGE, call).next is Next.HOLD_LARGE
        assert after(Kind.TOO_LARGE, call).free
    for call in (Call.REGISTER, Call.COMPLETE):
        assert after(Kind.TOO_LARGE, call).next is Next.FAIL


def test_R17_dead_url_is_replaced_three_times_free_then_the_job_waits_five_minutes() -> None:
    assert waits(Kind.URL_EXPIRED, Call.PUT_PART) == []
    found = [after(Kind.URL_EXPIRED, Call.PUT_PART, fresh_urls_spent=n) for n in range(5)]
    assert [d.next for d in found] == [*[Next.FRESH_URL] * 3, Next.LATER, Next.LATER]
    assert [d.wait_s for d in found] == [0, 0, 0, 300, 300]
    assert all(d.free for d in found)


def test_R18_bad_signature_gets_one_fresh_url_then_fails_with_fuse() -> None:
    assert waits(Kind.SIGNATURE_REFUSED, Call.PUT_BODY) == []
    assert after(Kind.SIGNATURE_REFUSED, Call.PUT_BODY).next is Next.FRESH_URL
    last = after(Kind.SIGNATURE_REFUSED, Call.PUT_BODY, fresh_urls_spent=1)
    assert last == Decision(Next.FAIL, 0.0, free=False, fuse=True)


def test_R19_skew_gets_one_fresh_url_then_holds_free() -> None:
    assert after(Kind.CLOCK_SKEW, Call.PUT_BODY).next is Next.FRESH_URL
    last = after(Kind.CLOCK_SKEW, Call.PUT_BODY, fresh_urls_spent=1)
    assert (last.next, last.free) == (Next.HOLD, True)
    assert row_of(Kind.CLOCK_SKEW).error is NeedsOperator


def test_R20_store_account_gets_one_fresh_url_then_holds_free_probing_hourly() -> None:
    assert after(Kind.STORE_ACCESS_DENIED, Call.PUT_BODY).next is Next.FRESH_URL
    last = after(Kind.STORE_ACCESS_DENIED, Call.PUT_BODY, 5, fresh_urls_spent=1)
    assert last == Decision(Next.HOLD, 3600.0, free=True, fuse=False)


def test_R21_existing_object_is_looked_into_free_and_the_put_not_repeated() -> None:
    assert waits(Kind.OBJECT_EXISTS, Call.PUT_BODY) == []
    assert after(Kind.OBJECT_EXISTS, Call.PUT_BODY) == Decision(Next.LATER, 60.0, True, False)
    assert after(Kind.OBJECT_EXISTS, Call.PUT_BODY, 20).wait_s == 3600
    assert after(Kind.OBJECT_EXISTS, Call.PUT_BODY, 5, once=True).next is Next.PARK


def test_R22_missing_object_is_asked_for_four_times_5_s_apart_then_sent_again_3_a_day() -> None:
    assert waits(Kind.OBJECT_MISSING, Call.REGISTER, jitter=0.1) == [5, 5, 5]
    found = [after(Kind.OBJECT_MISSING, Call.REGISTER, fresh_uploads_spent=n) for n in range(5)]
    assert [d.next for d in found] == [*[Next.FRESH_UPLOAD] * 3, Next.LATER, Next.LATER]


def test_R23_gone_upload_begins_anew_3_a_day_then_fails() -> None:
    assert waits(Kind.UPLOAD_GONE, Call.PUT_PART) == []
    found = [after(Kind.UPLOAD_GONE, Call.SIGN_PART, fresh_uploads_spent=n) for n in range(4)]
    assert [d.next for d in found] == [*[Next.FRESH_UPLOAD] * 3, Next.FAIL]


def test_R24_bad_digest_is_read_again_three_tries_then_the_job_and_names_the_link() -> None:
    assert waits(Kind.DIGEST_MISMATCH, Call.PUT_PART) == [0, 0]
    assert after(Kind.DIGEST_MISMATCH, Call.PUT_PART, 10_000).next is Next.LATER
    assert row_of(Kind.DIGEST_MISMATCH).event == "link.corrupts"


def test_R25_refused_parts_go_again_once_then_a_new_upload_once_then_fails() -> None:
    assert waits(Kind.PARTS_REFUSED, Call.COMPLETE) == []
    spent = [(0, 0), (1, 0), (1, 1)]
    found = [
        after(Kind.PARTS_REFUSED, Call.COMPLETE, resends_spent=r, fresh_uploads_spent=u).next
        for r, u in spent
    ]
    assert found == [Next.RESEND, Next.FRESH_UPLOAD, Next.FAIL]
    assert after(Kind.PARTS_REFUSED, Call.COMPLETE).next is Next.FRESH_UPLOAD


def test_R26_redirect_of_the_store_takes_one_url_then_15_minutes_and_of_the_api_holds() -> None:
    for call in STORE:
        assert waits(Kind.REDIRECTED, call) == []
        assert after(Kind.REDIRECTED, call).next is Next.FRESH_URL
        assert after(Kind.REDIRECTED, call, 3, fresh_urls_spent=1) == Decision(
            Next.LATER, 900.0, free=False, fuse=False
        )
    assert waits(Kind.REDIRECTED, Call.PRESIGN) == []
    assert after(Kind.REDIRECTED, Call.PRESIGN).next is Next.HOLD


def test_R27_unverified_tls_holds_without_a_repeat() -> None:
    assert waits(Kind.TLS_ERROR, Call.PRESIGN) == []
    assert after(Kind.TLS_ERROR, Call.PUT_BODY).next is Next.HOLD
    assert row_of(Kind.TLS_ERROR).error is NeedsOperator


def test_R28_portal_holds_offline_probing_each_minute() -> None:
    assert waits(Kind.CAPTIVE_PORTAL, Call.PRESIGN) == []
    assert steps(Kind.CAPTIVE_PORTAL, Call.PRESIGN, range(1, 4)) == [(Next.HOLD, 60)] * 3
    assert row_of(Kind.CAPTIVE_PORTAL).error is Offline


def test_R29_bad_answer_takes_two_tries_but_register_and_complete_verify_first() -> None:
    assert len(waits(Kind.INVALID_ANSWER, Call.PRESIGN)) == 1
    for call in (Call.REGISTER, Call.COMPLETE):
        assert request_wait_s(Kind.INVALID_ANSWER, 1, call=call, jitter=1, unclear=True) is None
    decision = after(Kind.INVALID_ANSWER, Call.PRESIGN)
    assert (decision.next, decision.fuse) == (Next.LATER, True)


def test_R30_local_read_errors_fail_at_the_fifth_attempt() -> None:
    found = [after(Kind.LOCAL_READ_ERROR, attempt=n).next for n in range(1, 7)]
    assert found == [*[Next.LATER] * 4, Next.FAIL, Next.FAIL]
    assert row_of(Kind.LOCAL_READ_ERROR).tries == 1


def test_R31_a_state_store_that_cannot_be_written_stops() -> None:
    assert after(Kind.STATE_ERROR).next is Next.STOP


def test_R32_our_bug_gets_three_attempts_and_no_repeat() -> None:
    assert waits(Kind.INTERNAL_ERROR, Call.PRESIGN) == []
    found = [after(Kind.INTERNAL_ERROR, attempt=n).next for n in range(1, 5)]
    assert found == [Next.LATER, Next.LATER, Next.FAIL, Next.FAIL]


def test_R33_other_client_errors_fail_with_fuse() -> None:
    assert waits(Kind.OTHER_CLIENT_ERROR, Call.PRESIGN) == []
    assert after(Kind.OTHER_CLIENT_ERROR, Call.PRESIGN) == Decision(Next.FAIL, 0.0, False, True)
    assert row_of(Kind.OTHER_CLIENT_ERROR).error is Permanent


def test_flags_stand_on_the_rows_the_table_gives_them_and_no_others() -> None:
    numbers = {
        flag: sorted(kind.value for kind, row in ROWS.items() if getattr(row, flag))
        for flag in ("free", "fuse", "breaker", "halves_slots")
    }

    assert numbers == {
        "free": [
            "api_throttled", "clock_skew", "dead_connection", "device_key_refused", "needs_sign_in",
            "not_allowed", "object_exists", "session_refused", "store_access_denied", "store_throttled",
            "too_large", "url_expired",
        ],
        "fuse": ["invalid_answer", "other_client_error", "request_refused", "signature_refused"],
        "breaker": ["dead_connection", "network", "server_transient"],
        "halves_slots": ["store_throttled"],
    }  # fmt: skip


@pytest.mark.parametrize("kind", [Kind.NETWORK, Kind.SERVER_TRANSIENT, Kind.SERVER_FAULT])
@pytest.mark.parametrize("call", [Call.REGISTER, Call.COMPLETE, Call.INITIATE])
def test_a_call_that_may_have_taken_effect_is_not_repeated(kind: Kind, call: Call) -> None:
    assert request_wait_s(kind, 1, call=call, jitter=1, unclear=True) is None
    assert request_wait_s(kind, 1, call=call, jitter=1, unclear=False) == 1


def test_a_run_of_once_parks_a_job_at_its_fifth_attempt_with_its_ordinary_wait() -> None:
    found = [after(Kind.NETWORK, attempt=n, once=True) for n in (1, 4, 5, 6)]

    assert [d.next for d in found] == [Next.LATER, Next.LATER, Next.PARK, Next.PARK]
    assert found[2].wait_s == 240


def test_a_run_of_once_changes_no_other_end() -> None:
    assert after(Kind.CAPTIVE_PORTAL, attempt=9, once=True).next is Next.HOLD
    assert after(Kind.SERVER_FAULT, attempt=8, once=True).wait_s == 3600


def test_probes_of_a_hold_grow_without_jitter() -> None:
    found = [decide(Kind.TLS_ERROR, attempt=n, jitter=0.0).wait_s for n in range(1, 7)]

    assert found == [5, 10, 20, 40, 60, 60]


def test_a_longer_retry_after_than_the_request_may_wait_goes_to_the_job() -> None:
    wait = request_wait_s(Kind.SERVER_TRANSIENT, 1, call=Call.PUT_BODY, retry_after_s=21, jitter=0)
    decision = after(Kind.SERVER_TRANSIENT, Call.PUT_BODY, retry_after_s=4000)

    assert wait is None
    assert decision.wait_s == pytest.approx(4400)


def test_retry_after_wins_over_our_own_shorter_or_longer_wait() -> None:
    for asked in (0.0, 3.0, 20.0):
        wait = request_wait_s(Kind.NETWORK, 3, call=Call.ME, retry_after_s=asked, jitter=0)
        assert wait == asked


def test_a_retry_after_of_nothing_is_no_pause_for_a_job_or_a_hold() -> None:
    hold = after(Kind.API_THROTTLED, Call.REGISTER, retry_after_s=0)
    job = after(Kind.SERVER_TRANSIENT, Call.PUT_BODY, retry_after_s=1)

    assert (hold.next, job.next) == (Next.HOLD, Next.LATER)
    assert (hold.wait_s, job.wait_s) == (5.5, 5.5)


@pytest.mark.parametrize("jitter", [0.0, 0.25, 1.0])
def test_waits_of_requests_and_jobs_scale_with_jitter(jitter: float) -> None:
    request = [request_wait_s(Kind.NETWORK, n, call=Call.ME, jitter=jitter) for n in (1, 2, 3)]
    job = [decide(Kind.NETWORK, attempt=n, jitter=jitter).wait_s for n in range(1, 7)]

    assert request == [jitter * ceiling for ceiling in (1, 2, 4)]
    assert job == [jitter * ceiling for ceiling in (15, 30, 60, 120, 240, 300)]


def test_backoff_doubles_up_to_its_cap_and_scales_with_jitter() -> None:
    found = [backoff_s(n, base_s=2, cap_s=30, jitter=1) for n in range(1, 7)]

    assert found == [2, 4, 8, 16, 30, 30]
    assert backoff_s(3, base_s=2, cap_s=30, jitter=0.25) == 2
    assert backoff_s(10**6, base_s=2, cap_s=30, jitter=0) == 0


def test_added_jitter_is_never_less_than_asked_and_a_tenth_at_most() -> None:
    assert add_jitter(100, 0) == 100
    assert add_jitter(100, 1) == pytest.approx(110)


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


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "-1",
        "+5",
        "1.5",
        "NaN",
        "inf",
        "1e3",
        "soon",
        "١٢",
        "Wed, 31 Dec 2025 23:59:00 GMT",
        "Thu, 99 Jan 2026 00:00:00 GMT",
        "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
    ],
)
def test_retry_after_ignores_what_asks_for_nothing(value: str | None) -> None:
    assert retry_after(value, DATE) is None


def test_a_date_in_retry_after_means_nothing_without_the_answers_own_date() -> None:
    later = "Thu, 01 Jan 2026 00:01:30 GMT"

    assert retry_after(later, None) is None
    assert retry_after(later, "whenever") is None


def test_no_wait_of_the_table_is_negative_or_endless() -> None:
    for kind in Kind:
        for attempt in (1, 5, 1000):
            wait_s = after(kind, Call.PUT_BODY, attempt).wait_s
            assert 0 <= wait_s <= 3600
            assert math.isfinite(wait_s)


def test_every_row_names_a_class_that_carries_its_kind() -> None:
    for kind, row in ROWS.items():
        error = row.error("message", kind=kind)
        assert isinstance(error, JobError)
        assert error.kind is kind
