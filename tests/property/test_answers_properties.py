"""Server answers: whatever is let through is what the far side meant, whole and within bounds."""

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from hypothesis import given
from hypothesis import strategies as st

from syncd.cloud.host_policy import URL_MAX, HostPolicy
from syncd.cloud.validation import (
    BODY_MAX,
    DEPTH_MAX,
    INTEGER_MAX,
    parse_json,
)
from syncd.core.jobs import error_mapping
from syncd.errors import JobError
from syncd.types import Call, Kind

T = TypeVar("T")

NOW_MS = 1_767_225_600_000
CLOUD = HostPolicy.of("https://core.example.com/api/v1", ("nas.lan:9000",), allow_http=True)


@given(st.integers(1, 2 * DEPTH_MAX), st.sampled_from(["[]", '{"a":}']), st.integers(-2, 2))
def test_depth_length_and_integers_of_json_are_bounded_exactly(
    depth: int, brackets: str, beyond: int
) -> None:
    opening, closing = brackets[:-1], brackets[-1]
    inner = opening * depth + "1" + closing * depth

    assert usable(f'{{"a":{inner}}}'.encode()) == (1 + depth + 1 <= DEPTH_MAX)
    assert usable(f'{{"a":{INTEGER_MAX + beyond}}}'.encode()) == (beyond <= 0)
    assert usable(b'{"a":1}'.ljust(BODY_MAX + beyond)) == (beyond <= 0)


def usable(body: bytes) -> bool:
    return read(lambda: parse_json(body)) is not None


def read(reader: Callable[[], T]) -> T | None:
    """What *reader* makes of an answer; None if it refuses it as the only error allowed says."""
    try:
        return reader()
    except JobError as error:
        kind = error.kind
    assert kind is Kind.INVALID_ANSWER
    return None


# --- what a presigned URL may be

hosts = st.sampled_from(
    ["s3.example.com", "S3.Example.com", "s3.example.com:8443", "10.0.0.1", "nas.lan:9000", "nas.lan",
     "a@b.com", "127.1", "0x7f.1", "[::1]", "169.254.169.254", "8.8.8.8", "[2606:4700::1111]", "h:0", ""]
)  # fmt: skip
tails = st.text(st.sampled_from("aZ09-._~/?&=%+;:@!$'()*,#[]\\ é\r\n"), max_size=30)
urls = st.builds(
    "{}{}{}".format,
    st.sampled_from(["https://", "http://", "HTTPS://", "ftp://", "//", "https:/"]),
    hosts,
    st.builds("/{}".format, tails) | tails,
)


@given(urls)
def test_accepted_url_is_sent_byte_for_byte_to_an_allowed_host(
    url: str,
) -> None:
    if CLOUD.refusal(url) is not None:
        return
    split, sent = urlsplit(url), httpx.URL(url)

    assert split.scheme == "https" or split.netloc == "nas.lan:9000"
    assert split.hostname not in (
        "10.0.0.1",
        "127.1",
        "0x7f.1",
        "::1",
        "169.254.169.254",
        "nas.lan",
    ) or (split.netloc == "nas.lan:9000")
    assert "@" not in split.netloc
    target = url[len(f"{split.scheme}://{split.netloc}") :]
    assert sent.raw_path.decode("ascii") == target
    assert len(url) <= URL_MAX


codes = st.none() | st.sampled_from(
    [*error_mapping.BY_CODE, *error_mapping.BY_CODE_BEFORE_DEADLINE, "Other"]
)


@given(st.sampled_from(Call), st.integers(100, 999), codes, st.tuples(*[st.booleans()] * 4))
def test_every_answer_has_a_row_and_only_a_plain_2xx_is_a_success(
    call: Call, status: int, code: str | None, flags: tuple[bool, bool, bool, bool]
) -> None:
    session, late, answered, html = flags
    kind = error_mapping.classify(
        call,
        status,
        s3_code=code,
        credential="session" if session else "device",
        past_deadline=late,
        route_answered=answered,
        html=html,
    )

    assert (kind is None) == (200 <= status < 300 and code is None and not html)
    if kind is not None:
        error = error_mapping.to_error(kind, "it failed", call=call)
        assert (error.kind, error.call) == (kind, call)
    if not session and call not in error_mapping.MULTIPART_CALLS:
        assert kind not in (Kind.SESSION_REFUSED, Kind.NEEDS_SIGN_IN)


SECRET = "dk-0123456789abcdef"
words = st.sampled_from(
    ["no", SECRET, f"https://h/p?{SECRET}&X=1", "\x1b[31m", "\n", "é", "\x00", "?"]
)


@given(st.lists(words | st.text(max_size=10), max_size=60))
def test_server_message_is_one_short_line_without_our_token(text: list[str]) -> None:
    shown = error_mapping.server_message(" ".join(text), secrets=[SECRET])

    assert shown.isprintable()
    assert len(shown) <= 300
    assert "0123456789abcdef" not in shown
    assert "X=1" not in shown
