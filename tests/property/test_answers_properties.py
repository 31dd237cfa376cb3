"""Presigned URLs that are accepted, and the row of each answer."""

from urllib.parse import urlsplit

import httpx
from hypothesis import given
from hypothesis import strategies as st

from syncd.cloud.host_policy import URL_MAX, HostPolicy
from syncd.core.jobs import error_mapping
from syncd.types import Call, Kind

CLOUD = HostPolicy.of("https://core.example.com/api/v1", ("nas.lan:9000",), allow_http=True)


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
def test_accepted_url_is_sent_byte_for_byte_to_an_allowed_host(url: str) -> None:
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
