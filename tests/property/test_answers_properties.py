"""Server answers: whatever is let through is what the far side meant, whole and within bounds."""

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from hypothesis import given
from hypothesis import strategies as st

from syncd.cloud.host_policy import URL_MAX, HostPolicy
from syncd.cloud.validation import (
    BODY_MAX,
    DEPTH_MAX,
    HEADERS_ALLOWED,
    INTEGER_MAX,
    URL_LIFETIME_MAX_S,
    grant_of,
    multipart_of,
    page_of,
    parse_json,
    record_of,
    url_deadline_ms,
)
from syncd.core.jobs import error_mapping
from syncd.core.jobs.parts import MAX_PARTS, plan_parts
from syncd.errors import JobError
from syncd.types import Call, Kind

T = TypeVar("T")

NOW_MS = 1_767_225_600_000
CLOUD = HostPolicy.of("https://core.example.com/api/v1", ("nas.lan:9000",), allow_http=True)

integers = st.integers(-INTEGER_MAX, INTEGER_MAX)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=6), values, max_size=4)


@given(objects, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_an_object_comes_back_as_it_was_written(
    value: dict[str, Any], ascii_only: bool, indent: str | int | None
) -> None:
    try:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    except UnicodeEncodeError:
        return
    assert parse_json(text) == value


@given(st.integers(1, 2 * DEPTH_MAX), st.sampled_from(["[]", '{"a":}']), st.integers(-2, 2))
def test_depth_length_and_integers_are_bounded_to_the_last_one(
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
def test_a_url_that_is_let_through_goes_out_byte_for_byte_to_a_host_that_may_be_reached(
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


names = st.sampled_from(
    ["Host", "host", "Content-Length", "content-length", "x-amz-meta-a", "X-Amz-Meta-A", "Authorization",
     "Cookie", "Transfer-Encoding", "If-None-Match", "x-amz-\r\nEvil", "x-amz-é"]
)  # fmt: skip
header_values = st.sampled_from(
    ["10", "11", "s3.example.com", "*", "a\r\nb", " x", "é", ""]
) | st.text(max_size=6)


@given(st.dictionaries(names, header_values, max_size=4))
def test_headers_are_taken_as_they_are_or_the_answer_is_refused_whole(
    headers: dict[str, str],
) -> None:
    answer = {
        "upload_url": "https://s3.example.com/k",
        "storage_key": "k",
        "upload_headers": headers,
    }
    grant = read(lambda: grant_of(answer, size=10, policy=CLOUD, now_ms=NOW_MS))
    if grant is None:
        return
    assert [*grant.headers.items()] == [*headers.items()]
    lower = [name.lower() for name in headers]
    assert len(set(lower)) == len(lower)
    assert all(name in HEADERS_ALLOWED or name.startswith("x-amz-") for name in lower)
    assert all(re.fullmatch(r"[!-~]([ -~]*[!-~])?", value) for value in headers.values())
    own = {name.lower(): value for name, value in headers.items()}
    assert own.get("content-length", "10") == "10"
    assert own.get("host", "s3.example.com") == "s3.example.com"


@given(
    st.integers(0, 4 * 10**12),
    st.none() | st.integers(-5, 10**7) | st.text(max_size=8),
    st.datetimes() | st.text(max_size=16),
)
def test_a_deadline_lies_ahead_and_within_a_week(
    now_ms: int, expires: object, date: object
) -> None:
    stamp = date if isinstance(date, str) else f"{date:%Y%m%dT%H%M%SZ}"
    query = f"X-Amz-Date={quote(stamp)}"
    if expires is not None:
        query += f"&X-Amz-Expires={quote(str(expires))}"

    deadline_ms = url_deadline_ms(f"https://s3.example.com/k?{query}", now_ms)

    assert now_ms < deadline_ms <= now_ms + URL_LIFETIME_MAX_S * 1000


# --- other answers


@given(st.integers(1, 2**45), st.integers(1, 2**34), st.integers(-1, 1))
def test_an_upload_is_taken_only_if_its_parts_make_the_file(
    size: int, part_size: int, off: int
) -> None:
    count = -(-size // part_size) + off
    answer = {"storage_key": "k", "upload_id": "u", "part_size": part_size, "part_count": count}
    upload = read(lambda: multipart_of(answer, size=size, storage_key="k"))
    if upload is None:
        sane = 5 * 1024**2 <= part_size <= 5 * 1024**3 and 1 <= count <= MAX_PARTS
        assert off or not sane
        return
    assert not off
    if count < 300:  # long lists are slow
        assert len(plan_parts(size, upload.part_size)) == upload.part_count


MEMBERS = ["id", "model_path", "file_size", "file_hash", "storage_key", "model_status"]
records = st.dictionaries(
    st.sampled_from(MEMBERS),
    scalars | st.text(max_size=12) | st.sampled_from(["r1", "r2"]),
    max_size=6,
)


@given(records, st.lists(records | scalars, max_size=3), values, values)
def test_a_record_is_refused_or_can_be_shown(
    answer: dict[str, Any], items: list[Any], total: Any, more: Any
) -> None:
    listing = {"models": items, "page_meta": {"total_count": total}, "more": more}
    pages = [read(lambda: page_of(listing)), read(lambda: page_of(answer))]
    listed = [record for page in pages if page is not None for record in page.records]

    for record in filter(None, [read(lambda: record_of(answer)), *listed]):
        shown = [getattr(record, name) for name in MEMBERS if name != "file_size"]
        assert all(text is None or text.isprintable() for text in shown)
        assert re.fullmatch(r"[\w.-]{1,128}", record.id, re.ASCII)
        assert record.file_size is None or 0 <= record.file_size <= INTEGER_MAX


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
def test_a_servers_own_words_are_one_short_line_without_our_token(text: list[str]) -> None:
    shown = error_mapping.server_message(" ".join(text), secrets=[SECRET])

    assert shown.isprintable()
    assert len(shown) <= 300
    assert "0123456789abcdef" not in shown
    assert "X=1" not in shown


@given(
    st.binary(max_size=60),
    st.from_regex(r"[A-Za-z0-9.]{1,64}", fullmatch=True),
    st.binary(max_size=60),
)
def test_a_code_is_found_behind_anything_but_another_error(
    before: bytes, code: str, after: bytes
) -> None:
    body = before + b"<Error>" + after + b"<Code>" + code.encode() + b"</Code></Error>"

    if b"<Code>" not in after:
        assert error_mapping.s3_code(body) == code or b"<Error" in before
    assert error_mapping.s3_code(before + after) is None or b"<Code>" in before + after
