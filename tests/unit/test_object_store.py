"""The object store's door: what arrives at a real socket, and what each answer becomes."""

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from syncd.cloud import object_store
from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.object_store import ObjectStore
from syncd.errors import ConfigError, FileChanged, JobError, NeedsOperator
from syncd.types import Call, Grant, Kind
from tests.fakes import LOST, Reply, ScriptedServer, endless, reply

NOW_MS = 1_767_225_600_000
DEADLINE_MS = NOW_MS + 900_000
QUERY = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-SignedHeaders=content-length%3Bhost&empty=&plus=a+b&slash=a/b&tilde=~&case=%2f%2F"
    "&utf=%E2%82%AC&odd=$,;:@!'()*[]&X-Amz-Signature=canary"
)
NEAR = HostPolicy.of("http://127.0.0.1/api/v1", [], allow_http=False)
STORED = reply(200, headers={"ETag": '"9bb58f26192e4ba00f01e2e7b136bbd8"'})


def xml(status: int, code: str, **more: Any) -> Reply:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>canary</Message></Error>'
    return reply(status, body, headers={"Content-Type": "application/xml"}, **more)


def grant(
    server: ScriptedServer, *, path: str = "/b/k?X-Amz-Signature=canary", **more: Any
) -> Grant:
    return Grant(server.url + path, **{"headers": {}, "deadline_ms": DEADLINE_MS, **more})


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with object_store.build_client() as client:
        yield ObjectStore(client, NEAR)


def put(
    store: ObjectStore,
    to: Grant,
    body: Iterable[bytes | memoryview] = (b"body",),
    size: int = 4,
    *,
    call: Call = Call.PUT_BODY,
    now_ms: Callable[[], int] = lambda: NOW_MS,
) -> str | None:
    return store.put(to, body, size, call=call, now_ms=now_ms)


def error_of(*args: Any, **kwargs: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        put(*args, **kwargs)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


# --- what arrives


def test_put_sends_exactly_the_expected_request(store: ObjectStore) -> None:
    headers = {
        "x-amz-meta-B": "2",
        "Content-Type": "application/octet-stream",
        "If-None-Match": "*",
        "x-amz-checksum-sha256": "a+/=",
    }
    with ScriptedServer([STORED]) as server:
        put(store, grant(server, path=f"/b/models/a%2Fb//c+d~?{QUERY}", headers=headers))

    assert (
        server.seen[0].head
        == (
            f"PUT /b/models/a%2Fb//c+d~?{QUERY} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{server.port}\r\n"
            "Content-Length: 4\r\n"
            "x-amz-meta-B: 2\r\n"
            "Content-Type: application/octet-stream\r\n"
            "If-None-Match: *\r\n"
            "x-amz-checksum-sha256: a+/=\r\n"
            "\r\n"
        ).encode()
    )
    assert server.seen[0].body == b"body"


def test_a_granted_length_and_host_are_sent_once_in_their_place(store: ObjectStore) -> None:
    with ScriptedServer([STORED]) as server:
        host = f"127.0.0.1:{server.port}"
        headers = {"content-length": "4", "If-None-Match": "*", "host": host}
        put(store, grant(server, headers=headers))

    assert sorted(server.seen[0].headers) == [
        ("If-None-Match", "*"),
        ("content-length", "4"),
        ("host", host),
    ]


def test_host_that_cannot_be_decoded_is_a_bad_answer(store: ObjectStore) -> None:
    error = error_of(store, Grant("https://xn--a.example/k", {}, DEADLINE_MS))

    assert error.kind is Kind.INVALID_ANSWER


@pytest.mark.parametrize("variable", ["NETRC", "HOME"])
def test_put_adds_nothing_from_environment_or_earlier_answers(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password canary\n")
    netrc.chmod(0o600)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv(variable, str(netrc if variable == "NETRC" else tmp_path))
    cookie = reply(200, headers={"Set-Cookie": "a=b; Path=/", "ETag": "e"})
    with ScriptedServer([cookie, STORED]) as server, object_store.build_client() as client:
        put(ObjectStore(client, NEAR), grant(server))
        put(ObjectStore(client, NEAR), grant(server))

    assert {name for seen in server.seen for name, _ in seen.headers} == {"Host", "Content-Length"}


@contextmanager
def used_socket(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The connection that carried one body, still open."""
    with ScriptedServer([STORED]) as server, object_store.build_client() as client:
        seen: list[socket.socket] = []
        opened = socket.create_connection

        def remember(*args: Any, **kwargs: Any) -> socket.socket:
            seen.append(opened(*args, **kwargs))
            return seen[-1]

        monkeypatch.setattr(socket, "create_connection", remember)
        put(ObjectStore(client, NEAR), grant(server))
        yield seen[0]


def test_connection_detects_a_dead_peer_within_30_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with used_socket(monkeypatch) as used:
        tcp = [used.getsockopt(socket.IPPROTO_TCP, name) for name in (18, 4, 5, 6)]
        alive = used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    assert tcp == [30_000, 15, 5, 3]  # TCP_USER_TIMEOUT, KEEPIDLE, KEEPINTVL, KEEPCNT
    assert alive == 1


def test_connection_uses_bbr_if_the_kernel_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    usual = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    with used_socket(monkeypatch) as used:
        chosen = used.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)

    assert chosen.rstrip(b"\0").decode() == ("bbr" if "bbr" in offered else usual)


# --- successes


@pytest.mark.parametrize("etag", ['"9bb58f26"', 'W/"x"', "bare-2", '"a-b c"'])
@pytest.mark.parametrize("call", [Call.PUT_BODY, Call.PUT_PART])
def test_put_returns_the_etag_verbatim(store: ObjectStore, call: Call, etag: str) -> None:
    with ScriptedServer([reply(200, headers={"ETag": etag})]) as server:
        assert put(store, grant(server), call=call) == etag


@pytest.mark.parametrize(
    "step",
    [
        reply(200),
        reply(200, headers={"ETag": ""}),
        reply(200, headers={"ETag": "x" * 300}),
        reply(200, headers={"ETag": "a", "etag": "b"}),
    ],
)
def test_part_without_usable_etag_fails(store: ObjectStore, step: Reply) -> None:
    with ScriptedServer([step]) as server:
        error = error_of(store, grant(server), call=Call.PUT_PART)

    assert (error.kind, error.unclear) == (Kind.INVALID_ANSWER, True)


def test_success_before_the_end_of_the_body_fails(store: ObjectStore) -> None:
    early = reply(200, headers={"ETag": '"e"'}, early=True)

    def pieces() -> Iterator[bytes]:
        for _ in range(1024):
            yield b"x" * 65536

    with ScriptedServer([early]) as server:
        error = error_of(store, grant(server), pieces(), 1024 * 65536)

    assert (error.kind, error.unclear) == (Kind.INVALID_ANSWER, True)


# --- bodies that fail


@pytest.mark.parametrize("raised", [FileChanged("moved"), OSError(5, "EIO"), KeyError("bug")])
def test_error_of_the_body_is_passed_on_and_the_server_gets_a_short_body(
    store: ObjectStore, raised: Exception
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * 70_000
        raise raised

    with ScriptedServer([]) as server:
        with pytest.raises(type(raised)) as caught:
            put(store, grant(server), pieces(), 140_000)
        arrived = server.next_read()

    assert caught.value is raised
    assert not arrived.whole
    assert len(arrived.body) == 70_000


@pytest.mark.parametrize("body", [[b"abc"], [b"abcde"], []])
def test_body_of_wrong_length_is_never_a_complete_request(
    store: ObjectStore, body: list[bytes]
) -> None:
    with ScriptedServer([STORED]) as server:
        error = error_of(store, grant(server), body, 4)
        arrived = server.next_read()

    assert (error.kind, error.unclear) == (Kind.INTERNAL_ERROR, False)
    assert not arrived.whole


def test_body_after_a_failed_one_uses_a_new_connection(store: ObjectStore) -> None:
    with ScriptedServer([STORED, STORED]) as server:
        error_of(store, grant(server), [b"abc"], 4)
        put(store, grant(server))

    assert [seen.connection for seen in server.seen if seen.whole] == [2]


# --- refusals


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (xml(400, "RequestTimeout"), Kind.STORE_IDLE),
        (xml(503, "SlowDown"), Kind.STORE_THROTTLED),
        (xml(400, "EntityTooLarge"), Kind.TOO_LARGE),
        (xml(403, "AccessDenied"), Kind.SIGNATURE_REFUSED),
        (xml(403, "RequestTimeTooSkewed"), Kind.CLOCK_SKEW),
        (xml(404, "NoSuchUpload"), Kind.UPLOAD_GONE),
        (xml(412, "PreconditionFailed"), Kind.OBJECT_EXISTS),
        (xml(409, "ConditionalRequestConflict"), Kind.STORE_CONFLICT),
        (xml(400, "BadDigest"), Kind.DIGEST_MISMATCH),
        (xml(200, "InternalError"), Kind.SERVER_FAULT),
        (reply(412), Kind.OBJECT_EXISTS),
        (reply(500), Kind.SERVER_FAULT),
        (reply(502, "<html>"), Kind.SERVER_TRANSIENT),
        (reply(403, "<html>blocked"), Kind.CAPTIVE_PORTAL),
        (reply(411), Kind.OTHER_CLIENT_ERROR),
    ],
)
@pytest.mark.parametrize("call", [Call.PUT_BODY, Call.PUT_PART])
def test_answer_maps_to_its_kind(store: ObjectStore, call: Call, step: Reply, kind: Kind) -> None:
    with ScriptedServer([step]) as server:
        error = error_of(store, grant(server), call=call)

    assert error.kind is kind


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(store: ObjectStore, status: int) -> None:
    with ScriptedServer([]) as elsewhere:
        step = reply(status, headers={"Location": f"{elsewhere.url}/b/k"})
        with ScriptedServer([step]) as server:
            error = error_of(store, grant(server))

    assert error.kind is Kind.REDIRECTED
    assert elsewhere.seen == []


def test_refusal_before_the_end_of_the_body_is_read(store: ObjectStore) -> None:
    """The server answers after the head and goes; the rest of the body meets a reset."""
    size = 64 * 1024 * 1024
    with ScriptedServer([xml(403, "AccessDenied", early=True)]) as server:
        error = error_of(store, grant(server), (b"x" * 65536 for _ in range(1024)), size)

    assert error.kind is Kind.SIGNATURE_REFUSED


def test_endless_answer_is_cut_off(store: ObjectStore) -> None:
    with ScriptedServer([endless(500)]) as server:
        error = error_of(store, grant(server))

    assert error.kind is Kind.SERVER_FAULT


def test_idle_timeout_refusal_closes_the_connection(store: ObjectStore) -> None:
    with ScriptedServer([xml(400, "RequestTimeout"), STORED]) as server:
        error_of(store, grant(server))
        put(store, grant(server))

    assert [seen.connection for seen in server.seen] == [1, 2]


# --- the network


def test_dead_idle_connection_differs_from_a_broken_new_one(store: ObjectStore) -> None:
    with ScriptedServer([STORED, LOST]) as server:
        put(store, grant(server))
        error = error_of(store, grant(server))

    assert error.kind is Kind.DEAD_CONNECTION


def test_a_bundle_or_proxy_that_cannot_be_used_is_a_configuration_error(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"network\.ca_bundle"):
        object_store.build_client(ca_bundle=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"network\.proxy"):
        object_store.build_client(proxy="nonsense")


@pytest.fixture(params=["store.example.org", "xn--bcher-kva.example"])
def misled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A public name that resolves to this machine, as a rebound or poisoned one would."""
    really = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        return really("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    name: str = request.param
    return name


def test_I24_public_name_with_near_address_gets_no_byte(misled: str) -> None:
    far = HostPolicy.of("https://api.example.org/api/v1", [], allow_http=False)
    with ScriptedServer([STORED]) as server, object_store.build_client() as client:
        to = Grant(f"http://{misled}:{server.port}/b/k", {}, DEADLINE_MS)
        with pytest.raises(
            NeedsOperator, match=r"resolves to 127\.0\.0\.1, a loopback address"
        ) as caught:
            put(ObjectStore(client, far), to)
        assert caught.value.advice is not None
        assert misled in caught.value.advice
        assert server.seen == []


def test_I24_a_host_that_the_operator_lists_may_be_near(misled: str) -> None:
    listed = HostPolicy.of("https://api.example.org/api/v1", [misled], allow_http=True)
    with ScriptedServer([STORED]) as server, object_store.build_client() as client:
        to = Grant(f"http://{misled}:{server.port}/b/k", {}, DEADLINE_MS)
        assert put(ObjectStore(client, listed), to) is not None
        assert len(server.seen) == 1
