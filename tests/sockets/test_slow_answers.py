"""
Row 51 of the matrix, and promise I30: no peer holds a slot, or a stop, by answering slowly.

The servers are real sockets that never fall silent, so no timeout for silence ends them.
"""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from syncd.cloud import object_store
from syncd.cloud import transport as api
from syncd.cloud.client import CloudClient
from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.object_store import Exchange, ObjectStore
from syncd.errors import JobError
from syncd.types import Call, Grant, Kind, Multipart, Target
from tests.cloud import cloud_client
from tests.fakes import FakeClock
from tests.oracle import check
from tests.sockets.rig import rigged
from tests.sockets.wire import Wire
from tests.weights import write_safetensors

DRIP_S = 0.02
WHOLE_S = 0.5
PATIENCE_S = 5.0
"""After so long the test has failed: the server would go on for ever."""

NEAR = HostPolicy.of("http://127.0.0.1/api/v1", [], allow_http=False)
GOOD = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n'


def _forever(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def header_byte_by_byte() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX-Long: "
    yield from _forever(b"x")


def body_byte_by_byte() -> Iterator[bytes]:
    yield b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 60000\r\n\r\n'
    yield from _forever(b"x")


def interim_100() -> Iterator[bytes]:
    return _forever(b"HTTP/1.1 100 Continue\r\n\r\n")


def interim_103() -> Iterator[bytes]:
    return _forever(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")


ANSWERS = [header_byte_by_byte, body_byte_by_byte, interim_100, interim_103]


class SlowServer:
    """
    Answers each request with what *answer* yields, a piece every ``DRIP_S``.

    Args:
        early: It answers before it has read the body, which it never does.
    """

    def __init__(self, answer: Callable[[], Iterator[bytes]], *, early: bool = False) -> None:
        self.answer = answer
        self._early = early
        self._ending = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests = 0
        self.cut = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while self._read(connection):
                self.requests += 1
                for piece in self.answer():
                    connection.sendall(piece)
                    if self._ending.wait(DRIP_S):
                        return
        self.cut.set()

    def _read(self, connection: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := connection.recv(1)):
                return False
            head += data
        if not self._early:
            lengths = [
                line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
            ]
            left = int(lengths[0].split(b":")[1]) if lengths else 0
            while left > 0:
                left -= len(connection.recv(left)) or left
        return True


# -- the object store ------------------------------------------------------------------------------


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with object_store.build_client() as client:
        yield ObjectStore(client, NEAR)


def put(store: ObjectStore, server: SlowServer, exchange: Exchange, body: bytes = b"body") -> Any:
    grant = Grant(f"http://127.0.0.1:{server.port}/k", {}, 2**60)
    return store.put(
        grant, [body], len(body), call=Call.PUT_PART, now_ms=lambda: 0, exchange=exchange
    )


@pytest.mark.cell("F51-part")
@pytest.mark.parametrize("answer", ANSWERS)
def test_I30_F51_answer_of_the_store_is_given_up_as_a_whole(
    store: ObjectStore, answer: Callable[[], Iterator[bytes]]
) -> None:
    with SlowServer(lambda: iter([GOOD])) as server:
        assert put(store, server, Exchange()) == '"e"'  # the connection is used again
        server.answer = answer
        began_s = time.monotonic()
        with pytest.raises(JobError) as caught:
            put(store, server, Exchange(answer_s=WHOLE_S))

        assert WHOLE_S <= time.monotonic() - began_s < PATIENCE_S
        assert caught.value.kind is Kind.NETWORK
        assert caught.value.unclear
        assert server.cut.wait(PATIENCE_S)
        server.answer = lambda: iter([GOOD])
        assert put(store, server, Exchange(answer_s=WHOLE_S)) == '"e"'


def test_I30_cut_from_another_thread_ends_a_request_at_once(store: ObjectStore) -> None:
    """A stop does not wait for the answer's own deadline."""
    exchange = Exchange()
    with SlowServer(body_byte_by_byte) as server:
        timer = threading.Timer(0.2, exchange.cut, ["it was given up"])
        timer.start()
        began_s = time.monotonic()
        with pytest.raises(JobError, match="it was given up"):
            put(store, server, exchange)

        assert time.monotonic() - began_s < PATIENCE_S
        assert server.cut.wait(PATIENCE_S)


def test_I30_store_that_takes_no_more_of_a_body_is_cut_off(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "PIECE_S", 0.2)
    exchange, ended = Exchange(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            exchange.cut_if_stuck()

    with SlowServer(lambda: iter([GOOD]), early=True) as server:
        server.answer = lambda: iter(())  # neither reads nor answers
        watcher = threading.Thread(target=watch)
        watcher.start()
        began_s = time.monotonic()
        try:
            with pytest.raises(JobError, match="did not accept a piece"):
                put(store, server, exchange, bytes(64 * 1024 * 1024))
        finally:
            ended.set()
            watcher.join()

        assert time.monotonic() - began_s < PATIENCE_S


# -- the API ---------------------------------------------------------------------------------------

TARGET = Target("models/loras/a.safetensors", "loras", "a.safetensors", "a")
UPLOAD = Multipart("u1", "k1", 5 * 1024**2, 2)

CALLS: list[Any] = [
    pytest.param(lambda cloud: cloud.complete(UPLOAD, [(1, '"e"')]), id="complete"),
    pytest.param(
        lambda cloud: cloud.register(TARGET, storage_key="k", size=9, sha256="0" * 64),
        id="register",
    ),
]


@pytest.mark.parametrize("answer", [header_byte_by_byte, interim_100])
@pytest.mark.parametrize("call", CALLS)
async def test_I30_F51_answer_of_the_api_is_given_up_as_a_whole(
    call: Callable[[CloudClient], Any],
    answer: Callable[[], Iterator[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CONNECT_S", "ANSWER_S", "COMPLETE_S"):
        monkeypatch.setattr(api, name, WHOLE_S)
    with SlowServer(answer) as server:
        url = f"http://127.0.0.1:{server.port}/api/v1"
        async with api.build_client() as client:
            cloud = cloud_client(url, client, clock=FakeClock())
            async with asyncio.timeout(6 * PATIENCE_S):
                with pytest.raises(JobError, match=r"no (complete )?answer from") as caught:
                    await call(cloud)

        assert caught.value.unclear


# -- the whole service -----------------------------------------------------------------------------

FILES = ("loras/a.safetensors", "vae/b.safetensors", "vae/c.safetensors")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for rel_path in FILES:
        write_safetensors(tmp_path / "models" / rel_path, 700)
    return tmp_path / "models"


@contextmanager
def slow_store(store: Wire, *, times: int, then: Callable[[], None]) -> Iterator[SlowServer]:
    """The first *times* bodies meet a store that drips; *then* is called once they are being sent."""
    real = store.upstream

    def watch(server: SlowServer) -> None:
        while server.requests < times:
            time.sleep(DRIP_S)
        store.upstream = real
        then()

    with SlowServer(header_byte_by_byte) as server:
        store.upstream = server.port
        watcher = threading.Thread(target=watch, args=(server,), daemon=True)
        watcher.start()
        yield server
        watcher.join()


def test_I30_F51_two_dripping_answers_do_not_stop_the_others(
    models: Path, both: tuple[Wire, Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    with rigged(models, both) as rig:
        monkeypatch.setattr(object_store, "WHOLE_ANSWER_S", WHOLE_S)
        with slow_store(both[1], times=2, then=lambda: None):
            assert rig.run() == 0, rig.said.getvalue()
        check(rig.evidence())

        assert len(rig.cloud.records()) == len(FILES)


def test_I30_F51_stop_does_not_wait_for_a_dripping_answer_beyond_the_grace(
    models: Path, both: tuple[Wire, Wire]
) -> None:
    stopped_s: list[float] = []

    def terminate() -> None:
        stopped_s.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    with rigged(models, both, upload={"shutdown_grace_s": 1}) as rig:
        with slow_store(both[1], times=2, then=terminate):
            assert rig.run() == 128 + signal.SIGTERM

        assert time.monotonic() - stopped_s[0] < 1 + PATIENCE_S
        assert rig.settle()[-1] == 0
        check(rig.evidence())
