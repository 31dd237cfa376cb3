"""The API client against a scripted server on a real socket; error mapping uses a mock transport."""

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from syncd import __version__
from syncd.cloud import transport as api
from syncd.cloud.capabilities import ServerCapabilities
from syncd.cloud.client import LISTINGS_MAX, CloudClient
from syncd.cloud.credentials import Credentials
from syncd.errors import ConfigError, JobError, NeedsOperator, Throttled
from syncd.types import Call, Kind, Multipart, Record, Target
from tests.cloud import cloud_client
from tests.fakes import LOST, FakeClock, Reply, ScriptedServer, Seen, endless, reply

DEVICE = "dk-canary-0123456789"
SESSION = "eyJhbGciOiJub25lIn0.eyJleHAiOjB9.canary"
TARGET = Target("models/loras/a.safetensors", "loras", "a.safetensors", "a")
UPLOAD = Multipart("u1", "k1", 5 * 1024**2, 2)
PRESIGNED: dict[str, Any] = {
    "upload_url": "http://127.0.0.1:9/b/k?X-Amz-Signature=canary",
    "storage_key": "k1",
}


def page(*ids: str, total: int) -> Reply:
    records = [{"id": each, "storage_key": f"key/{each}"} for each in ids]
    meta = {"current_page": 1, "per_page": 100, "total_count": total}
    return reply(200, json.dumps({"model_list": records, "page_meta": meta}))


def answer(status: int = 200, **members: object) -> Reply:
    return reply(status, json.dumps(members))


@asynccontextmanager
async def cloud(
    server: ScriptedServer | None = None,
    *,
    token: str = DEVICE,
    source: Callable[[], str | None] | None = None,
    clock: FakeClock | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    base_url: str | None = None,
    **more: Any,
) -> AsyncIterator[CloudClient]:
    """The API's client, pointed at *server*."""
    url = base_url or (f"{server.url}/api/v1" if server else "https://cloud.example.com/api/v1")
    client = api.build_client() if transport is None else httpx.AsyncClient(transport=transport)
    async with client:
        yield cloud_client(
            url, client, source=source or (lambda: token), clock=clock or FakeClock(), **more
        )


@asynccontextmanager
async def scripted(
    script: list[Reply], **more: Any
) -> AsyncIterator[tuple[CloudClient, ScriptedServer]]:
    """A client of a server that answers with *script*, and that server."""
    with ScriptedServer(script) as server:
        async with cloud(server, **more) as it:
            yield it, server


def plain(status: int = 200) -> httpx.Response:
    """An answer for a transport, not yet read."""
    return httpx.Response(status, stream=httpx.ByteStream(b'{"id": "me"}'))


async def error_of(awaitable: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        await awaitable
    return caught.value


def sent(seen: Seen) -> Any:
    return json.loads(seen.body)


# --- what goes out


async def test_presign_sends_the_members_of_the_contract_and_returns_the_grant() -> None:
    clock = FakeClock()
    script = [answer(**PRESIGNED, upload_headers={"Content-Length": "7"})]
    async with scripted(script, clock=clock) as (it, server):
        grant = await it.presign(TARGET, 7)

    assert server.seen[0].request_line == "POST /api/v1/models/presign HTTP/1.1"
    assert sent(server.seen[0]) == {
        "file_name": "a.safetensors",
        "file_size": 7,
        "model_type": "loras",
        "model_path": "models/loras/a.safetensors",
    }
    assert grant.url == PRESIGNED["upload_url"]
    assert (dict(grant.headers), grant.storage_key) == ({"Content-Length": "7"}, "k1")
    assert grant.deadline_ms == clock.now_ms() + 900_000


async def test_register_sends_all_six_members_and_returns_the_id() -> None:
    async with scripted([answer(201, id="r1")]) as (it, server):
        found = await it.register(TARGET, storage_key="k1", size=7, sha256="ab" * 32)

    assert found == "r1"
    assert server.seen[0].request_line == "POST /api/v1/models HTTP/1.1"
    assert sent(server.seen[0]) == {
        "display_name": "a",
        "model_type": "loras",
        "storage_key": "k1",
        "file_size": 7,
        "file_hash": "sha256:" + "ab" * 32,
        "model_path": "models/loras/a.safetensors",
    }


async def test_multipart_calls_send_the_members_of_the_contract() -> None:
    opened = answer(upload_id="u1", storage_key="k1", part_size=5 * 1024**2, part_count=2)
    signed = answer(upload_url="http://127.0.0.1:9/p?partNumber=2")
    script = [opened, signed, reply(200), reply(204)]
    async with scripted(script, token=SESSION, team_id="t1") as (it, server):
        upload = await it.initiate("k1", 6 * 1024**2)
        grant = await it.sign_part(upload, 2, 1024**2)
        await it.complete(upload, [(2, '"b"'), (1, '"a"')])
        await it.abort(upload)

    assert upload == UPLOAD
    assert server.seen[0].header("X-Team-ID") == "t1"
    assert (grant.url, grant.storage_key) == ("http://127.0.0.1:9/p?partNumber=2", None)
    members = {"storage_key": "k1", "upload_id": "u1"}
    parts = [{"part_number": 1, "etag": '"a"'}, {"part_number": 2, "etag": '"b"'}]
    assert [(seen.request_line.split()[1], sent(seen)) for seen in server.seen] == [
        ("/api/v1/uploads/multipart/initiate", {"storage_key": "k1", "file_size": 6 * 1024**2}),
        ("/api/v1/uploads/multipart/presign", {**members, "part_number": 2}),
        ("/api/v1/uploads/multipart/complete", {**members, "parts": parts}),
        ("/api/v1/uploads/multipart/abort", members),
    ]


@pytest.mark.parametrize("variable", ["NETRC", "HOME"])
async def test_a_request_carries_these_headers_and_no_others(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password canary\n")
    netrc.chmod(0o600)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv(variable, str(netrc if variable == "NETRC" else tmp_path))
    async with scripted([answer(id="me")], team_id="t1") as (it, server):
        await it.me()

    assert dict(server.seen[0].headers) == {
        "Host": f"127.0.0.1:{server.port}",
        "Authorization": f"Bearer {DEVICE}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"syncd/{__version__}",
    }


async def test_cookies_are_not_sent_back() -> None:
    cookie = reply(200, '{"id": "me"}', headers={"Set-Cookie": "a=b; Path=/"})
    async with scripted([cookie, cookie]) as (it, server):
        await it.me()
        await it.me()

    assert [seen.header("Cookie") for seen in server.seen] == [None, None]


# --- records


async def test_models_reads_all_pages_and_yields_each_record_once() -> None:
    script = [page("a", "b", total=3), page("b", "c", total=3)]
    async with scripted(script) as (it, server):
        found = [record.id async for record in it.models()]

    assert found == ["a", "b", "c"]
    assert [seen.request_line.split()[1] for seen in server.seen] == [
        "/api/v1/models?current_page=1&per_page=100",
        "/api/v1/models?current_page=2&per_page=100",
    ]


@pytest.mark.parametrize("second", [page(total=3), page("a", "b", total=3)])
async def test_listing_that_ends_early_is_an_invalid_answer(second: Reply) -> None:
    async with scripted([page("a", "b", total=3), second]) as (it, _):
        error = await error_of(it.find("zzz"))

    assert error.kind is Kind.INVALID_ANSWER


async def test_listing_whose_total_changed_is_read_again() -> None:
    script = [
        page("a", "b", total=4),
        page("d", total=3),
        page("b", "c", total=3),
        page("d", total=3),
    ]
    async with scripted(script) as (it, _):
        found = [record.id async for record in it.models()]

    assert found == ["a", "b", "d", "c"]


@pytest.mark.parametrize(
    ("totals", "kind"), [((3, 4), None), ((4, 3), Kind.INVALID_ANSWER)], ids=["grows", "shrinks"]
)
async def test_listing_that_changes_each_time_is_accepted_only_if_it_grows(
    totals: tuple[int, int], kind: Kind | None
) -> None:
    pages = [page("a", "b", total=totals[0]), page("c", "d", total=totals[1])]
    async with scripted(pages * LISTINGS_MAX) as (it, server):
        if kind is None:
            assert len([record async for record in it.models()]) == 4
        else:
            assert (await error_of(it.find("zzz"))).kind is kind

    assert len(server.seen) == 2 * LISTINGS_MAX


async def test_find_reads_a_record_whose_listing_omits_a_member() -> None:
    listed = [{"id": "r1", "storage_key": "other"}, {"id": "r2"}]
    script = [
        answer(models=listed, page_meta={"total_count": 2}),
        answer(id="r2", storage_key="k1"),
    ]
    async with scripted(script) as (it, server):
        found = await it.find("k1")

    assert found is not None
    assert found.id == "r2"
    assert len(server.seen) == 2


async def test_record_id_is_quoted_in_the_path() -> None:
    async with scripted([answer(id="x")]) as (it, server):
        assert await it.get_model("../users/me?a=b") == Record("x", *[None] * 8)

    assert server.seen[0].request_line.split()[1] == "/api/v1/models/..%2Fusers%2Fme%3Fa%3Db"


async def test_update_without_put_route_uses_patch_from_then_on() -> None:
    script = [reply(405), answer(id="r1"), answer(id="r1")]
    async with scripted(script) as (it, server):
        assert await it.update_model("r1", {"display_name": "b"})
        assert await it.update_model("r1", {"display_name": "c"})

    assert [seen.request_line.split()[0] for seen in server.seen] == ["PUT", "PATCH", "PATCH"]


# --- repeats of one request


async def test_request_fails_after_its_last_try() -> None:
    clock = FakeClock()
    async with scripted([reply(502)] * 5, clock=clock) as (it, server):
        error = await error_of(it.presign(TARGET, 7))

    assert (error.kind, len(server.seen), clock.slept) == (Kind.SERVER_TRANSIENT, 4, [1, 2, 4])


async def test_throttled_request_waits_for_retry_after_and_then_raises() -> None:
    clock = FakeClock()
    busy = reply(429, headers={"Retry-After": "100"})
    async with scripted([busy, busy], clock=clock) as (it, _):
        error = await error_of(it.presign(TARGET, 7))

    assert clock.slept == [pytest.approx(110)]
    assert isinstance(error, Throttled)
    assert error.retry_after_s == 100


async def test_retry_after_date_is_relative_to_the_date_of_the_answer() -> None:
    busy = reply(
        503,
        headers={
            "Date": "Thu, 01 Jan 1970 00:00:00 GMT",
            "Retry-After": "Thu, 01 Jan 1970 01:00:00 GMT",
        },
    )
    async with scripted([busy]) as (it, _):
        error = await error_of(it.presign(TARGET, 7))

    assert (error.kind, error.retry_after_s) == (Kind.API_THROTTLED, 3600)


async def test_dead_idle_connection_is_replaced_without_a_wait() -> None:
    clock = FakeClock()
    async with scripted([answer(id="me"), LOST, answer(id="me")], clock=clock) as (it, server):
        await it.me()
        await it.me()

    assert clock.slept == [0]
    assert [seen.connection for seen in server.seen] == [1, 1, 2]


REGISTER = ("register", lambda it: it.register(TARGET, storage_key="k1", size=7, sha256="0" * 64))
COMPLETE = ("complete", lambda it: it.complete(UPLOAD, [(1, "a")]))
INITIATE = ("initiate", lambda it: it.initiate("k1", 6 * 1024**2))
UNCLEAR = [
    (LOST, Kind.NETWORK),
    (reply(500), Kind.SERVER_FAULT),
    (reply(503, headers={"Retry-After": "1"}), Kind.API_THROTTLED),
    (reply(408), Kind.SERVER_TRANSIENT),
    (reply(200, "{"), Kind.INVALID_ANSWER),
    (reply(200, "<html>", headers={"Content-Type": "text/html"}), Kind.CAPTIVE_PORTAL),
]


@pytest.mark.parametrize(("name", "call"), [REGISTER, COMPLETE, INITIATE])
@pytest.mark.parametrize(("step", "kind"), UNCLEAR)
async def test_call_with_unclear_outcome_is_not_repeated(
    name: str, call: Callable[[CloudClient], Any], step: Reply, kind: Kind
) -> None:
    clock = FakeClock()
    async with scripted([step], token=SESSION, clock=clock) as (it, server):
        error = await error_of(call(it))

    assert (error.kind, error.unclear, len(server.seen), clock.slept) == (kind, True, 1, [])
    assert str(error).startswith(name)


async def test_register_is_repeated_until_the_object_is_visible() -> None:
    clock = FakeClock()
    script = [reply(404), reply(404), answer(201, id="r1")]
    async with scripted(script, clock=clock) as (it, _):
        assert await REGISTER[1](it) == "r1"

    assert clock.slept == [5, 5]


@pytest.mark.parametrize("body", ["", "{}", '{"location": "x"}'])
async def test_complete_accepts_any_success_without_error_message(body: str) -> None:
    async with scripted([reply(200, body)], token=SESSION) as (it, server):
        await it.complete(UPLOAD, [(1, "a")])

    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"error_message": "could not"}', Kind.INVALID_ANSWER),
        ("<Error><Code>InternalError</Code></Error>", Kind.SERVER_FAULT),
        ("<Error><Code>InvalidPart</Code></Error>", Kind.PARTS_REFUSED),
    ],
)
async def test_complete_with_error_message_in_a_success_fails(body: str, kind: Kind) -> None:
    async with scripted([reply(200, body)], token=SESSION) as (it, _):
        error = await error_of(it.complete(UPLOAD, [(1, "a")]))

    assert (error.kind, error.unclear) == (kind, True)


async def test_abort_of_missing_upload_succeeds() -> None:
    with ScriptedServer([reply(404)]) as server:
        async with cloud(
            server, token=SESSION, capabilities=ServerCapabilities({Call.ABORT})
        ) as it:
            await it.abort(UPLOAD)

    assert len(server.seen) == 1


# --- credentials


async def test_second_refusal_in_a_row_is_raised() -> None:
    tokens = iter(["dk-1", "dk-2", "dk-3"])
    script = [reply(401), reply(401), answer(id="me")]
    async with scripted(script, source=lambda: next(tokens)) as (it, server):
        error = await error_of(it.me())

    assert error.kind is Kind.DEVICE_KEY_REFUSED
    assert [seen.header("Authorization") for seen in server.seen] == [
        "Bearer dk-1",
        "Bearer dk-2",
    ]


async def test_concurrent_refused_calls_read_the_source_once() -> None:
    reads: list[str] = []

    def source() -> str:
        reads.append("dk-new" if reads else "dk-old")
        return reads[-1]

    async def by_token(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        old = request.headers["Authorization"] == "Bearer dk-old"
        return plain(401 if old else 200)

    transport = httpx.MockTransport(by_token)
    async with cloud(transport=transport, source=source, calls_per_s=1000) as it:
        await asyncio.gather(*(it.me() for _ in range(5)))

    assert reads == ["dk-old", "dk-new"]


@pytest.mark.parametrize("token", [None, "", "sk-abc", "a.b", "dk-", "dk-a b", "dk-a\n"])
async def test_without_a_token_of_a_known_kind_nothing_is_sent(token: str | None) -> None:
    async with scripted([], source=lambda: token) as (it, server):
        error = await error_of(it.me())

    assert (error.kind, server.seen) == (Kind.DEVICE_KEY_REFUSED, [])
    assert error.advice


def test_credentials_detect_the_kind_of_token_and_repr_hides_it() -> None:
    device, session = Credentials(lambda: DEVICE), Credentials(lambda: SESSION)

    assert (device.kind, device.is_session) == ("device", False)
    assert (session.kind, session.is_session) == ("session", True)
    assert "canary" not in repr(device) + repr(vars(api))


@pytest.mark.parametrize("held", [None, "", "dk-", "half-writ", ConfigError("mode 0644")])
async def test_source_without_usable_token_keeps_the_old_token(
    held: str | ConfigError | None,
) -> None:
    contents = [DEVICE, held, "dk-new"]

    def source() -> str | None:
        found = contents.pop(0)
        if isinstance(found, ConfigError):
            raise found
        return found

    credentials = Credentials(source)

    assert not await credentials.reread(DEVICE)
    assert credentials.token == DEVICE
    assert await credentials.has_changed()
    assert credentials.token == "dk-new"


async def test_token_replaced_by_one_call_counts_as_changed_for_others() -> None:
    contents = ["dk-old", "dk-new"]
    credentials = Credentials(lambda: contents.pop(0))

    assert await credentials.reread("dk-old")
    assert await credentials.has_changed()
    assert contents == []


# --- routes


async def test_optional_call_without_route_is_not_sent_again() -> None:
    async with scripted([reply(404, '{"error_message": "no route"}')]) as (it, server):
        first = await error_of(anext(it.models()))
        second = await error_of(anext(it.models()))

    assert first.kind is second.kind is Kind.ROUTE_UNKNOWN
    assert len(server.seen) == 1
    assert "no route" in str(second)


async def test_404_of_a_route_that_answered_before_does_not_switch_it_off() -> None:
    reported: list[Call] = []
    with ScriptedServer([page("a", total=1), page("a", total=1), reply(404)]) as server:
        known = ServerCapabilities(on_answered=reported.append)
        async with cloud(server, capabilities=known) as it:
            for _ in range(2):
                assert [record.id async for record in it.models()] == ["a"]
            error = await error_of(anext(it.models()))

    assert error.kind is Kind.OTHER_CLIENT_ERROR
    assert reported == [Call.LIST_MODELS]


async def test_R13_404_after_an_unusable_success_does_not_switch_multipart_off() -> None:
    async with scripted([reply(200, b"x" * 2_000_000), reply(404)], token=SESSION) as (it, _):
        await error_of(it.complete(UPLOAD, [(1, "a")]))
        error = await error_of(it.complete(UPLOAD, [(1, "a")]))
        assert it.multipart_available

    assert error.kind is Kind.UPLOAD_GONE


async def test_record_is_asked_for_again_after_its_route_was_unknown() -> None:
    async with scripted([reply(501), reply(404, '{"detail": "Model not found"}')]) as (it, server):
        unknown = await error_of(it.get_model("r1"))
        assert await it.get_model("r1") is None

    assert unknown.kind is Kind.ROUTE_UNKNOWN
    assert len(server.seen) == 2


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_missing_sign_part_route_switches_multipart_off_except_abort(
    status: int,
) -> None:
    async with scripted([reply(status), reply(204)], token=SESSION) as (it, server):
        assert it.multipart_available
        await error_of(it.sign_part(UPLOAD, 1, 7))
        assert not it.multipart_available
        refused = await error_of(it.initiate("k1", 7))
        await it.abort(UPLOAD)

    assert refused.kind is Kind.ROUTE_UNKNOWN
    assert len(server.seen) == 2


# --- hostile answers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_I23_redirect_is_not_followed_and_the_token_stays(status: int) -> None:
    with ScriptedServer([]) as elsewhere:
        location = {"Location": f"{elsewhere.url}/api/v1/models/presign"}
        async with scripted([reply(status, headers=location)]) as (it, server):
            error = await error_of(it.presign(TARGET, 7))

    assert error.kind is Kind.REDIRECTED
    assert elsewhere.seen == []
    assert len(server.seen) == 1


async def test_compressed_answer_is_refused_without_decompression() -> None:
    bomb = gzip.compress(b'{"a": "' + b"0" * 50_000_000 + b'"}')
    step = reply(200, bomb, headers={"Content-Encoding": "gzip"})
    async with scripted([step, step]) as (it, _):
        error = await error_of(it.me())

    assert error.kind is Kind.INVALID_ANSWER


async def test_endless_answer_is_cut_off() -> None:
    async with scripted([endless(200)] * 2) as (it, _):
        error = await error_of(it.me())

    assert error.kind is Kind.INVALID_ANSWER


@pytest.mark.parametrize(
    "body",
    [
        '{"upload_url": "http://127.0.0.1/k", "storage_key": "k", "storage_key": "other"}',
        '{"upload_url": "http://169.254.169.254/k", "storage_key": "k"}',
        "",
    ],
)
async def test_invalid_presign_answer_is_repeated_once(body: str) -> None:
    async with scripted([reply(200, body)] * 3) as (it, server):
        error = await error_of(it.presign(TARGET, 7))

    assert (error.kind, len(server.seen)) == (Kind.INVALID_ANSWER, 2)


async def test_error_message_names_call_status_host_and_reason_but_no_secret() -> None:
    said = f"bad\x1b[31m {DEVICE} see https://h/p?X-Amz-Signature=canary " + "x" * 1000
    async with scripted([answer(422, error_message=said)]) as (it, _):
        error = await error_of(it.presign(TARGET, 7))

    text = str(error)
    assert text.startswith("presign: HTTP 422 from 127.0.0.1: bad\\x1b[31m *** see https://h/p?...")
    assert "canary" not in text
    assert len(text) < 400
    assert error.__cause__ is None


# --- what the transport says


def raising(error: Exception) -> httpx.MockTransport:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    return httpx.MockTransport(handler)


@pytest.mark.parametrize(
    ("error", "kind", "unclear"),
    [
        (httpx.ConnectError("c"), Kind.NETWORK, False),
        (httpx.ReadTimeout("r"), Kind.NETWORK, True),
        (httpx.WriteError("w"), Kind.NETWORK, True),
        (httpx.CloseError("c"), Kind.NETWORK, True),
        (httpx.RemoteProtocolError("p"), Kind.NETWORK, True),
        (httpx.ProxyError("407"), Kind.CAPTIVE_PORTAL, False),
        (httpx.LocalProtocolError("l"), Kind.INTERNAL_ERROR, False),
    ],
)
async def test_transport_errors_are_classified_by_type(
    error: Exception, kind: Kind, unclear: bool
) -> None:
    async with cloud(transport=raising(error)) as it:
        found = await error_of(REGISTER[1](it))

    assert (found.kind, found.unclear) == (kind, unclear)


async def test_certificate_error_is_found_in_the_chain_of_causes() -> None:
    outer = httpx.ConnectError("handshake")
    outer.__cause__ = OSError("between")
    outer.__cause__.__cause__ = ssl.SSLCertVerificationError("certificate verify failed")
    async with cloud(transport=raising(outer)) as it:
        found = await error_of(it.me())

    assert isinstance(found, NeedsOperator)
    assert found.kind is Kind.TLS_ERROR
    assert "clock says 2026-01-01" in str(found)


# --- pace


def quick(request: httpx.Request) -> httpx.Response:
    return plain()


async def test_calls_are_rate_limited_after_a_burst() -> None:
    clock = FakeClock()
    async with cloud(transport=httpx.MockTransport(quick), clock=clock, calls_per_s=10) as it:
        for _ in range(10):
            await it.me()
        burst = list(clock.slept)
        for _ in range(10):
            await it.me()

    assert sum(burst) == pytest.approx(0)
    assert sum(clock.slept) == pytest.approx(1.0)


async def test_R06_all_calls_wait_for_the_pause_that_the_server_asked_for() -> None:
    class CallingClock(FakeClock):
        """While the first call waits, another one is made."""

        other: Callable[[], Awaitable[object]] | None = None

        async def sleep(self, seconds: float) -> None:
            other, self.other = self.other, None
            if other is not None:
                await other()
            await super().sleep(seconds)

    clock, asked_at_s = CallingClock(), []
    answers = iter(
        [httpx.Response(429, headers={"Retry-After": "60"}, stream=httpx.ByteStream(b"{}"))]
    )

    def handler(request: httpx.Request) -> httpx.Response:
        asked_at_s.append(clock.boottime_s())
        return next(answers, None) or plain()

    async with cloud(transport=httpx.MockTransport(handler), clock=clock) as it:
        clock.other = it.me
        await it.me()

    assert len(asked_at_s) == 3
    assert asked_at_s[1] - asked_at_s[0] >= 60


def asks_for_a_pause(clock: FakeClock, asked_s: int, times: int) -> tuple[Any, list[float]]:
    """Return a transport that answers 429 *times* times, and the times of its calls."""
    called_at_s: list[float] = []
    pause = {"Retry-After": str(asked_s)}

    def handler(request: httpx.Request) -> httpx.Response:
        called_at_s.append(clock.boottime_s())
        if len(called_at_s) > times:
            return plain()
        return httpx.Response(429, headers=pause, stream=httpx.ByteStream(b"{}"))

    return httpx.MockTransport(handler), called_at_s


async def test_R06_call_after_a_raised_throttle_waits_for_the_end_of_a_short_pause() -> None:
    clock = FakeClock()
    transport, called_at_s = asks_for_a_pause(clock, 90, times=2)
    async with cloud(transport=transport, clock=clock) as it:
        await error_of(it.abort(UPLOAD))
        await it.me()

    assert called_at_s[2] - called_at_s[1] >= 90


async def test_R06_call_during_a_long_pause_fails_as_throttled_without_a_request() -> None:
    clock = FakeClock()
    transport, called_at_s = asks_for_a_pause(clock, 600, times=1)
    async with cloud(transport=transport, clock=clock) as it:
        await error_of(it.abort(UPLOAD))
        clock.advance(200)
        error = await error_of(it.me())
        assert (error.kind, error.retry_after_s) == (Kind.API_THROTTLED, 400)
        assert len(called_at_s) == 1
        clock.advance(400)
        await it.me()


async def test_announced_limit_pauses_or_slows_all_calls() -> None:
    clock, at_s = FakeClock(), []
    headers = iter([{"RateLimit": '"default";r=0;t=20'}, {"RateLimit": '"default";r=2;t=10'}])

    def handler(request: httpx.Request) -> httpx.Response:
        at_s.append(clock.boottime_s())
        return httpx.Response(
            200, headers=next(headers, {}), stream=httpx.ByteStream(b'{"id": "me"}')
        )

    async with cloud(transport=httpx.MockTransport(handler), clock=clock) as it:
        for _ in range(4):
            await it.me()

    assert at_s[1] - at_s[0] >= 20
    assert at_s[3] - at_s[2] == pytest.approx(5, abs=0.1)


async def test_loopback_server_has_no_rate_limit() -> None:
    clock = FakeClock()
    async with scripted([answer(id="me")] * 30, clock=clock, calls_per_s=1) as (it, _):
        for _ in range(30):
            await it.me()

    assert clock.slept == []


# --- the client


async def test_loopback_server_is_reached_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ScriptedServer([]) as proxy, ScriptedServer([answer(id="me")]) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with cloud(server) as it:
            await it.me()

    assert proxy.seen == []


async def test_refusing_proxy_is_a_captive_portal() -> None:
    with ScriptedServer([reply(407, close=True)]) as proxy:
        async with api.build_client(proxy=proxy.url) as client:
            it = cloud_client("https://cloud.example.com/api/v1", client, clock=FakeClock())
            error = await error_of(it.me())

    assert error.kind is Kind.CAPTIVE_PORTAL
    assert proxy.seen[0].request_line == "CONNECT cloud.example.com:443 HTTP/1.1"
    assert proxy.seen[0].header("Authorization") is None
