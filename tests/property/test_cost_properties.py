"""
I33: no untrusted text can freeze the daemon.

A text is built from a unit that is repeated, and the time of one call is compared with the time of a
call on four times as much. Linear work takes 4 times as long, quadratic work 16 times.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.validation import parse_json
from syncd.core.files import naming
from syncd.core.jobs import error_mapping, retry_policy
from syncd.errors import JobError
from syncd.monitoring import log
from syncd.types import printable

SIZE = 4096
"""The number of characters of the shorter text."""

FLOOR_S = 0.05
"""A call that takes less processor time is fast enough and cannot be compared."""

RATIO_MAX = 9.0
TRIES = 3

PIECES = (
    "http://", "https://", "://", "a.", "a", "-", ".", "/", "?", "@", ":", "=", '"', "'", " ", "\n",
    "ey", "éey", "dk-", "bearer ", "authorization", "input_value=", ", input_type=", "x-amz-signature",
    "\x1b[", "\\x1b[", "0;", "%41", "<Code>", "<Error>", "{", "[", "9", ".pt", "..", "\\", "é", "_",
)  # fmt: skip


def seconds(call: Callable[[str], object], text: str) -> float:
    """Return the time of the fastest of a few calls."""
    times = []
    for _ in range(TRIES):
        started = time.thread_time()
        call(text)
        times.append(time.thread_time() - started)
        if times[-1] < FLOOR_S:
            break
    return min(times)


def assert_linear(call: Callable[[str], object], unit: str, before: str, after: str) -> None:
    """Require that four times as many characters take much less than 16 times as long."""

    def text(size: int) -> str:
        return before + unit * (size // len(unit)) + after

    long_s = seconds(call, text(4 * SIZE))
    if long_s >= FLOOR_S:
        assert long_s < RATIO_MAX * seconds(call, text(SIZE)), f"{unit!r}: {long_s:.2f} s"


def said(text: str) -> str:
    return error_mapping.server_message(text, secrets=["dk-secret"])


def shown(text: str) -> str:
    return printable(log.scrub(text))


def document(text: str) -> object:
    body = text.encode("utf-8", "surrogatepass")
    return error_mapping.s3_code(body), error_mapping.looks_like_html(text, body)


def json_answer(text: str) -> None:
    with suppress(JobError):
        parse_json(text.encode("utf-8", "surrogatepass"))


def upload_url(text: str) -> object:
    policy = HostPolicy.of("https://api.example", (), allow_http=False)
    return policy.refusal(text), policy.refusal(f"https://{text}")


def retry_after(text: str) -> object:
    return retry_policy.retry_after(text, "Sun, 06 Nov 1994 08:49:37 GMT")


def name(text: str) -> object:
    rel_path = f"loras/{text.replace('/', '_')}.safetensors"
    return (
        naming.unwanted(rel_path, 1),
        naming.target_of(rel_path, prefix="models/"),
        naming.owner_of(os.path.basename(rel_path)),
    )


@pytest.mark.parametrize(
    "call", [said, shown, document, json_answer, upload_url, retry_after, name]
)
@given(
    unit=st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join),
    before=st.sampled_from(["", *PIECES]),
    after=st.sampled_from(["", *PIECES]),
)
@example(unit="http://", before="", after="")
@example(unit="a.", before="", after="://")
@example(unit="ey", before="", after="")
@example(unit="éey", before="://", after="")
@example(unit="input_value=", before="", after="")
@example(unit=" ", before="", after="é")
@example(unit="[", before="", after="")
def test_I33_untrusted_text_is_processed_in_linear_time(
    call: Callable[[str], object], unit: str, before: str, after: str
) -> None:
    assert_linear(call, unit, before, after)
