"""
20,000 answers that no server should give (T12), the same ones in every push.

Whatever comes back, a call ends with a value that may be used or with an error of ours that can be
shown, after a number of requests that the retry table bounds, and without reading for ever.
"""

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from syncd.cloud import sign_in
from syncd.cloud.capabilities import ServerCapabilities
from syncd.cloud.client import CloudClient
from syncd.cloud.credentials import Credentials
from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.object_store import ANSWER_MAX, ObjectStore
from syncd.cloud.transport import Transport
from syncd.cloud.validation import BODY_MAX
from syncd.core.jobs import retry_policy
from syncd.core.jobs.retry_policy import RETRY_AFTER_MAX_S
from syncd.errors import JobError
from syncd.types import Call, Grant, Multipart, Target
from tests.fakes import FakeClock
from tests.scale import SEED, scaled

TOKEN = "dk-canary-0123456789"
BASE_URL = "https://cloud.example.com/api/v1"
HOSTS = HostPolicy.of(BASE_URL, (), allow_http=False)
TARGET = Target("models/loras/a.safetensors", "loras", "a.safetensors", "a")
UPLOAD = Multipart("u1", "k1", 5 * 1024**2, 2)
TRIES_MAX = max(row.tries for row in retry_policy.ROWS.values())
PIECE = 64 * 1024

GRANT: dict[str, Any] = {
    "upload_url": "https://s3.example.com/b/k1?X-Amz-Date=20260101T000000Z&X-Amz-Expires=900",
    "storage_key": "k1",
    "upload_headers": {"Content-Length": "7", "x-amz-meta-a": "b"},
}
RECORD = {"id": "r1", "model_path": "models/a", "storage_key": "k1", "file_size": 7}
LISTING = {"models": [RECORD, {**RECORD, "id": "r2"}], "page_meta": {"total_count": 2}}
OPENED = {"upload_id": "u1", "storage_key": "k1", "part_size": 5 * 1024**2, "part_count": 2}
SIGNED_IN = {"access_token": "a.b.c", "refresh_token": "rt-1", "expires_in": 3600}
PAIRING = {
    "device_code": "dc-1", "user_code": "AB7K-PNQ3", "verification_uri": "https://example.com/pair?c",
    "expires_in": 300, "interval": 2,
}  # fmt: skip
PROFILE = {
    "id": "me",
    "display_name": "Ada",
    "team_list": [{"id": "t", "display_name": "Team", "role": "owner"}],
    "feature_flags": {"account": {"features": {"custom_models": False}}, "teams": {"t": {}}},
}
NO: dict[str, Any] = {"error_message": f"no, Bearer {TOKEN} and https://h/p?{TOKEN}\x1b[2J"}


async def every(api: CloudClient) -> list[Any]:
    return [record async for record in api.models()]


ASK: dict[Call, tuple[dict[str, Any], Callable[[CloudClient], Awaitable[Any]]]] = {
    Call.LOGIN: (SIGNED_IN, lambda api: sign_in.login(api._transport, "ada@example.org", TOKEN)),
    Call.REFRESH: (SIGNED_IN, lambda api: sign_in.refresh(api._transport, TOKEN)),
    Call.PAIR_START: (PAIRING, lambda api: sign_in.start_pairing(api._transport)),
    Call.PAIR_POLL: (
        {"status": "approved", "raw_key": "dk-1", "agent_key": "ak-1"},
        lambda api: sign_in.poll_pairing(api._transport, TOKEN),
    ),
    Call.REVOKE: ({}, lambda api: api.revoke()),
    Call.ME: (PROFILE, lambda api: api.me()),
    Call.PRESIGN: (GRANT, lambda api: api.presign(TARGET, 7)),
    Call.REGISTER: (
        {"id": "r1"},
        lambda api: api.register(TARGET, storage_key="k1", size=7, sha256="0" * 64),
    ),
    Call.LIST_MODELS: (LISTING, every),
    Call.GET_MODEL: (RECORD, lambda api: api.get_model("r1")),
    Call.INITIATE: (OPENED, lambda api: api.initiate("k1", 10 * 1024**2)),
    Call.SIGN_PART: (GRANT, lambda api: api.sign_part(UPLOAD, 1, 7)),
    Call.COMPLETE: ({}, lambda api: api.complete(UPLOAD, [(1, '"e"'), (2, '"f"')])),
    Call.ABORT: ({}, lambda api: api.abort(UPLOAD)),
}

# --- mutations

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 2**53 + 1, 1e308, "", " ", "\0", "\ud800", "a\r\nb", "x" * 5000, [], {}, [[]], "..",
    "K1", "http://169.254.169.254/", "https://s3.example@evil/", [{"id": "r3"}], {"id": "../x"}, "\x1b[2J",
)  # fmt: skip
TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\xff", b"NaN", b"1e999", b"9" * 30, b"\xef\xbb\xbf",
    b"null", b'"id":"r9",', b"<html>", b"<Error><Code>SlowDown</Code></Error>", b"[" * 2000, b"\0", b"\r\n",
)  # fmt: skip
STATUSES = (
    100, 199, 200, 201, 204, 206, 301, 307, 400, 401, 402, 403, 404, 405, 407, 408, 409, 412, 413, 418, 422,
    425, 429, 451, 499, 500, 501, 502, 503, 504, 505, 507, 509, 511, 520, 599, 600, 999,
)  # fmt: skip
HEADERS = {
    "Retry-After": ("0", "5", "-1", "1e9", "9" * 20, "NaN", "Thu, 01 Jan 2026 00:00:09 GMT", "é"),
    "Date": ("Thu, 01 Jan 2026 00:00:00 GMT", "yesterday", ""),
    "Content-Type": ("text/html", "application/json; charset=x", "", "\xff"),
    "Content-Encoding": ("gzip", "identity", "br, gzip"),
    "Location": ("https://evil.example.com/", "/"),
    "Set-Cookie": ("a=b; Path=/",),
    "ETag": ('"e"', "", "é", '"' + "e" * 300 + '"', "W/\"x\""),
    "Transfer-Encoding": ("chunked",),
    "Content-Length": ("0", "-5", "99999999999999999999999"),
}  # fmt: skip


def reshaped(value: Any, chance: random.Random) -> Any:
    """A value less, twice or another, anywhere in it."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice([*value])
        other = {**value, key: reshaped(value[key], chance)}
        if chance.random() < 0.2:
            del other[key]
        return other
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [
            *value[:at],
            *[reshaped(value[at], chance)] * chance.choice((0, 1, 2)),
            *value[at + 1 :],
        ]
    return chance.choice(HOSTILE)


def spoilt(body: bytes, chance: random.Random) -> bytes:
    """Bytes more, less or others."""
    at = chance.randrange(len(body) + 1)
    end = at + chance.choice((0, 0, 1, 8, 200))
    fresh = chance.choice((b"", chance.randbytes(2), chance.choice(TOKENS), body[at:end] * 2))
    return body[:at] + fresh + body[end:]


def body_of(good: dict[str, Any], chance: random.Random) -> bytes:
    shape = chance.choice((good, good, NO))
    for _ in range(chance.choice((0, 1, 1, 2))):
        shape = reshaped(shape, chance)
    body = json.dumps(shape, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        body = spoilt(body, chance)
    return body


def headers_of(chance: random.Random) -> list[tuple[bytes, bytes]]:
    names = chance.sample([*HEADERS], chance.choice((0, 0, 1, 3)))
    return [(name.encode(), chance.choice(HEADERS[name]).encode()) for name in names]


class Endless(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that goes on as long as somebody reads; ``given`` is how much that was."""

    def __init__(self, body: bytes, *, endless: bool) -> None:
        self._body, self._endless = body, endless
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        yield self._body
        while self._endless:
            self.given += PIECE
            yield b" " * PIECE

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


class Server(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """Answers each request with another mutation."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.good: dict[str, Any] = {}
        self.requests = 0
        self.body = Endless(b"", endless=False)
        self.last: tuple[Any, ...] = ()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        chance = self.chance
        self.requests += 1
        for piece in request.stream if request.method == "PUT" else ():  # type: ignore[union-attr]
            assert piece
        status = 200 if chance.random() < 0.5 else chance.choice(STATUSES)
        body, headers = body_of(self.good, chance), headers_of(chance)
        self.last = status, headers, body
        if chance.random() < 0.05:
            raise chance.choice((httpx.ReadError, httpx.ReadTimeout, httpx.ConnectError))("broke")
        self.body = Endless(body, endless=chance.random() < 0.01)
        return httpx.Response(status, headers=headers, stream=self.body, request=request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)


def check_shown(error: JobError, last: object, secret: str | None = TOKEN) -> None:
    said = str(error)
    assert said.isprintable(), last
    assert secret is None or secret not in said, last
    assert len(said) < 700, last
    assert error.retry_after_s is None or 0 <= error.retry_after_s <= RETRY_AFTER_MAX_S, last
    assert error.__cause__ is None, last


# --- the tests


@pytest.mark.parametrize("call", ASK, ids=str)
async def test_T12_I27_a_call_with_a_mutated_answer_ends_with_a_value_or_an_error_of_ours(
    call: Call,
) -> None:
    good, ask = ASK[call]
    answers, values = 0, 0
    server = Server(random.Random(f"{SEED}:{call}"))
    server.good = good
    async with httpx.AsyncClient(transport=server, follow_redirects=False) as client:
        while answers < scaled(300):
            clock = FakeClock()
            transport = Transport(
                BASE_URL,
                client,
                clock=clock,
                jitter=server.chance.random,
                capabilities=ServerCapabilities([*Call] if server.chance.random() < 0.5 else ()),
            )
            api = CloudClient(transport, Credentials(lambda: TOKEN), hosts=HOSTS, clock=clock)
            server.requests = 0
            failure = None
            try:
                await ask(api)
                values += 1
            except JobError as error:
                failure = error
            if failure is not None:
                # What pairing begins with is nobody's secret yet, so an echo of one is not known.
                check_shown(failure, server.last, None if call is Call.PAIR_START else TOKEN)
            pages = 3 if call is Call.LIST_MODELS else 1
            assert 1 <= server.requests <= pages * TRIES_MAX, server.last
            assert server.body.given <= BODY_MAX + PIECE
            assert sum(clock.slept) <= pages * TRIES_MAX * 330
            answers += server.requests

    assert 0 < values < answers


@pytest.mark.parametrize("call", [Call.PUT_BODY, Call.PUT_PART], ids=str)
def test_T12_a_body_is_acknowledged_or_refused_with_an_error_of_ours(
    call: Call,
) -> None:
    server = Server(random.Random(f"{SEED}:{call}"))
    server.good = NO
    grant, stored = Grant(f"https://s3.example.com/b/k1?{TOKEN}", {}, 1_000), 0
    cases = scaled(2_000)
    with httpx.Client(transport=server, follow_redirects=False) as client:
        store = ObjectStore(client, HOSTS)
        for _ in range(cases):
            failure = None
            try:
                etag = store.put(grant, [b"canary!"], 7, call=call, now_ms=lambda: 500)
                stored += 1
                assert (etag or "-").isprintable()
                assert etag is not None or call is Call.PUT_BODY
            except JobError as error:
                failure = error
            if failure is not None:
                check_shown(failure, server.last)
            assert server.body.given <= ANSWER_MAX + PIECE

    assert 0 < stored < cases
