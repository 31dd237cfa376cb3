"""The kind of failure of a response."""

import time

import pytest

from syncd.core.jobs.error_mapping import (
    classify,
    died_on_reused_connection,
    leaves_doubt,
    looks_like_html,
    s3_code,
    server_message,
    to_error,
)
from syncd.errors import NeedsOperator, Offline, Permanent, Retryable, Throttled
from syncd.types import Call, Kind

API = (
    Call.ME,
    Call.PRESIGN,
    Call.REGISTER,
    Call.LIST_MODELS,
    Call.GET_MODEL,
    Call.UPDATE_MODEL,
    Call.DELETE_MODEL,
    Call.INITIATE,
    Call.SIGN_PART,
    Call.COMPLETE,
    Call.ABORT,
)
MULTIPART = (Call.INITIATE, Call.SIGN_PART, Call.COMPLETE, Call.ABORT)
STORE = (Call.PUT_BODY, Call.PUT_PART)


@pytest.mark.parametrize("call", Call)
@pytest.mark.parametrize("status", [200, 201, 202, 204, 206])
def test_2xx_is_success(call: Call, status: int) -> None:
    assert classify(call, status) is None


@pytest.mark.parametrize("call", API)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(s, "server_transient") for s in (408, 425, 502, 503, 504, 520, 527)],
        (500, "server_fault"),
        (599, "server_fault"),
        (429, "api_throttled"),
        (402, "not_allowed"),
        (400, "request_refused"),
        (422, "request_refused"),
        (501, "route_unknown"),
        (412, "object_exists"),
        (413, "too_large"),
        *[(s, "redirected") for s in (301, 302, 303, 307, 308)],
        (407, "captive_portal"),
        (511, "captive_portal"),
        (300, "invalid_answer"),
        (406, "other_client_error"),
    ],
)
def test_api_statuses(call: Call, status: int, kind: str) -> None:
    assert classify(call, status, credential="session") == kind


@pytest.mark.parametrize("call", API)
def test_api_503_with_retry_after_is_a_throttle(call: Call) -> None:
    assert classify(call, 503, retry_after_s=0) is Kind.API_THROTTLED


@pytest.mark.parametrize("call", API)
def test_api_401_is_refused_credential(call: Call) -> None:
    assert classify(call, 401, credential="session") is Kind.SESSION_REFUSED
    expected = Kind.NEEDS_SIGN_IN if call in MULTIPART else Kind.DEVICE_KEY_REFUSED
    assert classify(call, 401, credential="device") is expected


@pytest.mark.parametrize("call", API)
def test_api_403_is_not_allowed_or_needs_sign_in(call: Call) -> None:
    assert classify(call, 403, credential="session") is Kind.NOT_ALLOWED
    expected = Kind.NEEDS_SIGN_IN if call in MULTIPART else Kind.NOT_ALLOWED
    assert classify(call, 403, credential="device") is expected


@pytest.mark.parametrize("call", API)
def test_404_of_route_that_never_answered_is_unknown_route(call: Call) -> None:
    about_data = {Call.REGISTER: Kind.OBJECT_MISSING, Call.GET_MODEL: Kind.OTHER_CLIENT_ERROR}
    expected = about_data.get(call, Kind.ROUTE_UNKNOWN)
    assert classify(call, 404, route_answered=False) is expected


@pytest.mark.parametrize("call", API)
def test_404_of_route_that_answered_is_missing_object(call: Call) -> None:
    gone = {Call.REGISTER: Kind.OBJECT_MISSING, **dict.fromkeys(MULTIPART, Kind.UPLOAD_GONE)}
    expected = gone.get(call, Kind.OTHER_CLIENT_ERROR)
    assert classify(call, 404, route_answered=True) is expected


@pytest.mark.parametrize("call", API)
def test_api_409_is_conflict_of_record_or_upload(call: Call) -> None:
    expected = Kind.STORE_CONFLICT if call in MULTIPART else Kind.CONFLICT
    assert classify(call, 409) is expected


@pytest.mark.parametrize("call", STORE)
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "RequestTimeout", "store_idle"),
        (503, "SlowDown", "store_throttled"),
        (509, "BandwidthLimitExceeded", "store_throttled"),
        (429, None, "store_throttled"),
        (509, None, "store_throttled"),
        (409, "ConditionalRequestConflict", "store_conflict"),
        (409, None, "store_conflict"),
        (400, "EntityTooLarge", "too_large"),
        (413, None, "too_large"),
        (400, "ExpiredToken", "url_expired"),
        (403, "SignatureDoesNotMatch", "signature_refused"),
        (403, "AccessDenied", "signature_refused"),
        (403, None, "signature_refused"),
        (401, None, "signature_refused"),
        (403, "RequestTimeTooSkewed", "clock_skew"),
        (403, "AllAccessDisabled", "store_access_denied"),
        (404, "NoSuchBucket", "store_access_denied"),
        (412, "PreconditionFailed", "object_exists"),
        (412, None, "object_exists"),
        (404, "NoSuchUpload", "upload_gone"),
        (400, "BadDigest", "digest_mismatch"),
        (400, "InvalidPart", "parts_refused"),
        (500, "InternalError", "server_fault"),
        (500, None, "server_fault"),
        (503, "ServiceUnavailable", "server_transient"),
        (503, None, "server_transient"),
        (504, None, "server_transient"),
        (301, None, "redirected"),
        (407, None, "captive_portal"),
        (400, "SomethingNew", "request_refused"),
        (411, "MissingContentLength", "other_client_error"),
        (507, "XMinioStorageFull", "not_allowed"),
        (501, "NotImplemented", "route_unknown"),
    ],
)
def test_store_response_maps_by_code_first(
    call: Call, status: int, code: str | None, kind: str
) -> None:
    assert classify(call, status, s3_code=code) == kind


@pytest.mark.parametrize("code", [None, "AccessDenied", "SignatureDoesNotMatch", "Unheard"])
def test_store_403_past_deadline_is_expired_url(code: str | None) -> None:
    assert classify(Call.PUT_PART, 403, s3_code=code, past_deadline=True) is Kind.URL_EXPIRED
    assert classify(Call.PUT_PART, 400, s3_code=code, past_deadline=True) is not Kind.URL_EXPIRED


@pytest.mark.parametrize(
    ("code", "kind"),
    [("RequestTimeTooSkewed", Kind.CLOCK_SKEW), ("AccountProblem", Kind.STORE_ACCESS_DENIED)],
)
def test_store_403_of_clock_or_account_stays_so_past_deadline(code: str, kind: Kind) -> None:
    assert classify(Call.PUT_BODY, 403, s3_code=code, past_deadline=True) is kind


def test_error_document_in_200_is_failure() -> None:
    assert classify(Call.COMPLETE, 200, s3_code="InternalError") is Kind.SERVER_FAULT
    assert classify(Call.COMPLETE, 200, s3_code="SlowDown") is Kind.STORE_THROTTLED
    assert classify(Call.COMPLETE, 200, s3_code="Unheard") is Kind.SERVER_FAULT


@pytest.mark.parametrize("call", [Call.PRESIGN, Call.PUT_BODY])
@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 422])
def test_html_instead_of_data_is_captive_portal(call: Call, status: int) -> None:
    assert classify(call, status, html=True) is Kind.CAPTIVE_PORTAL


def test_request_may_have_taken_effect_after_2xx_408_and_5xx() -> None:
    doubtful = [status for status in range(200, 600) if leaves_doubt(status)]

    assert doubtful == [*range(200, 300), 408, *range(500, 600)]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Kind.NETWORK, Retryable),
        (Kind.API_THROTTLED, Throttled),
        (Kind.CAPTIVE_PORTAL, Offline),
        (Kind.DEVICE_KEY_REFUSED, NeedsOperator),
        (Kind.REQUEST_REFUSED, Permanent),
    ],
)
def test_error_has_class_of_its_row(kind: Kind, error: type[Exception]) -> None:
    made = to_error(kind, "what happened", retry_after_s=3, unclear=True)

    assert type(made) is error
    assert (made.kind, str(made), made.retry_after_s, made.unclear) == (
        kind,
        "what happened",
        3,
        True,
    )


def test_operator_error_has_advice() -> None:
    for kind in Kind:
        made = to_error(kind, "m")
        if isinstance(made, NeedsOperator) and kind is not Kind.STATE_ERROR:
            assert made.advice, kind
    assert to_error(Kind.TLS_ERROR, "m", advice="mine").advice == "mine"


XML = '<?xml version="1.0"?>\n<Error><Code>{}</Code><Message>m</Message></Error>'


def test_s3_code_is_read_from_error_document() -> None:
    assert s3_code(XML.format("SlowDown").encode()) == "SlowDown"
    assert s3_code(XML.format(" Slow.Down2\n").encode()) == "Slow.Down2"
    assert s3_code(b'<Error xmlns="urn:x">\n  <Code>A</Code><Code>B</Code></Error>') == "A"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"SlowDown",
        b"<Code>SlowDown</Code>",
        XML.format("").encode(),
        XML.format("Slow Down").encode(),
        XML.format("<b>").encode(),
        XML.format("A" * 65).encode(),
        b"<Error>" + b" " * 5000 + b"<Code>SlowDown</Code>",
        b"\xff\xfe<\x00E\x00",
    ],
)
def test_other_text_is_not_s3_code(body: bytes) -> None:
    assert s3_code(body) is None


def test_I33_hostile_error_document_is_scanned_in_linear_time() -> None:
    started = time.perf_counter()

    assert s3_code(b"<Error" * 170_000) is None
    assert s3_code(b"<Error>" + b"<Code>" * 170_000) is None
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/html; charset=utf-8", b"", True),
        (" Text/HTML", b"{}", True),
        (None, b"\r\n <!DOCTYPE html><p>", True),
        ("application/json", b"<HTML>", True),
        ("application/json", b'{"a": "<html>"}', False),
        ("application/xml", b"<htmlish/>", False),
        (None, b"", False),
    ],
)
def test_html_is_recognised_by_type_or_first_bytes(
    content_type: str | None, body: bytes, expected: bool
) -> None:
    assert looks_like_html(content_type, body) is expected


def test_I22_server_message_is_one_short_line_without_secrets() -> None:
    text = (
        "no\x1b[2J\n dk-canary at https://h/p?X-Amz-Signature=canary&b=1 and 'http://g/?q=canary'"
    )

    shown = server_message(text, secrets=["dk-canary"])

    assert "canary" not in shown
    assert "https://h/p?..." in shown
    assert shown.isprintable()
    assert shown.startswith("no\\x1b[2J\\n")
    assert len(server_message("x" * 1000)) == 300


def test_dead_reused_connection_is_recognised_by_trace_events() -> None:
    sent, opened = "http11.send_request_headers.started", "connection.connect_tcp.started"
    answered = "http11.receive_response_headers.complete"

    assert died_on_reused_connection({sent})
    assert not died_on_reused_connection({sent, opened})
    assert not died_on_reused_connection({sent, answered})
    assert not died_on_reused_connection(())
