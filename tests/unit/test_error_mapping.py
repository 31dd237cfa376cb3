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
from syncd.errors import NeedsOperator
from syncd.types import Call, Kind


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


def test_request_may_have_taken_effect_after_2xx_408_and_5xx() -> None:
    doubtful = [status for status in range(200, 600) if leaves_doubt(status)]

    assert doubtful == [*range(200, 300), 408, *range(500, 600)]


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
