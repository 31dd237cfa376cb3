"""F29: real TLS servers with invalid certificates get no byte of a body."""

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from syncd.cloud import object_store
from syncd.cloud import transport as api
from syncd.cloud.host_policy import HostPolicy
from syncd.errors import JobError, NeedsOperator
from syncd.types import Call, Grant, Kind

pytestmark = pytest.mark.needs("openssl")

BODY = b"weights" * 1000
TRUST = {
    # the certificate's host, its days, who signed it
    "wrong_host": ("elsewhere.example", 2, "known"),
    "expired": ("localhost", -1, "known"),
    "self_signed": ("localhost", 2, "itself"),
    "unknown_ca": ("localhost", 2, "unknown"),
    "good": ("localhost", 2, "known"),
}
BAD = [name for name in TRUST if name != "good"]


def openssl(folder: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``known.pem`` is the bundle that syncd trusts; ``NAME.pem`` and ``NAME.key`` are servers'."""
    folder = tmp_path_factory.mktemp("certificates")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for ca in ("known", "unknown"):
        openssl(folder, "req", "-x509", *new, "-keyout", f"{ca}.key", "-out", f"{ca}.pem",
                "-subj", f"/CN={ca}", "-days", "2")  # fmt: skip
    for name, (host, days, signer) in TRUST.items():
        whom = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{host}")
        keys = ("-keyout", f"{name}.key")
        if signer == "itself":
            openssl(folder, "req", "-x509", *new, *keys, "-out", f"{name}.pem", *whom,
                    "-days", str(days))  # fmt: skip
            continue
        openssl(folder, "req", *new, *keys, "-out", f"{name}.csr", *whom)
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem",
                "-CA", f"{signer}.pem", "-CAkey", f"{signer}.key", "-days", str(days),
                "-copy_extensions", "copy")  # fmt: skip
    return folder


class Server:
    """Speaks TLS with one certificate, keeps what was said to it in plain, answers 200."""

    def __init__(self, certificates: Path, name: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.port: int = self._sock.getsockname()[1]
        self.connections = 0
        self.heard = b""

    @contextmanager
    def serving(self) -> Iterator["Server"]:
        """Until the block ends; afterwards all that came has been read."""
        self._thread.start()
        try:
            yield self
        finally:
            self._sock.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._sock.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                raw, _ = self._sock.accept()
                self.connections += 1
                with suppress(OSError), raw:
                    raw.settimeout(5)
                    self._listen(raw)

    def _listen(self, raw: socket.socket) -> None:
        with self._context.wrap_socket(raw, server_side=True) as secure:
            while BODY not in self.heard:
                data = secure.recv(65536)
                if not data:
                    return
                self.heard += data
            secure.sendall(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n')


HERE = HostPolicy.of("https://localhost/api/v1", [], allow_http=False)


def put(certificates: Path, server: Server) -> str | None:
    grant = Grant(f"https://localhost:{server.port}/key?X-Amz-Signature=1", {}, 2**53)
    with object_store.build_client(ca_bundle=str(certificates / "known.pem")) as client:
        return object_store.ObjectStore(client, HERE).put(
            grant, [BODY], len(BODY), call=Call.PUT_PART, now_ms=lambda: 0
        )


def post(certificates: Path, server: Server) -> int:
    async def ask() -> int:
        async with api.build_client(ca_bundle=str(certificates / "known.pem")) as client:
            url = f"https://localhost:{server.port}/api/v1/models"
            return (await client.post(url, content=BODY)).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize("name", BAD)
def test_F29_R27_the_store_gets_no_byte_over_a_connection_that_is_not_verified(
    certificates: Path, name: str
) -> None:
    with Server(certificates, name).serving() as server, pytest.raises(JobError) as caught:
        put(certificates, server)

    assert isinstance(caught.value, NeedsOperator)
    assert caught.value.kind is Kind.TLS_ERROR
    assert (server.connections, server.heard) == (1, b"")


@pytest.mark.parametrize("name", BAD)
def test_F29_the_api_gets_no_byte_over_a_connection_that_is_not_verified(
    certificates: Path, name: str
) -> None:
    with (
        Server(certificates, name).serving() as server,
        pytest.raises(httpx.ConnectError, match="certificate verify failed"),
    ):
        post(certificates, server)

    assert (server.connections, server.heard) == (1, b"")


@pytest.mark.parametrize("send", [put, post])
def test_F29_a_server_with_a_good_certificate_gets_the_body(
    certificates: Path, send: Callable[[Path, Server], object]
) -> None:
    with Server(certificates, "good").serving() as server:
        assert send(certificates, server) in ('"x"', 200)

    assert server.heard.endswith(BODY)


class Proxy:
    """Opens one tunnel to *server*, whatever name it is asked for; ``asked`` is the request for it."""

    def __init__(self, server: Server) -> None:
        self._port = server.port
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.url = f"http://user:CANARY_proxy@127.0.0.1:{self._sock.getsockname()[1]}"
        self.asked = b""

    @contextmanager
    def serving(self) -> Iterator["Proxy"]:
        """Until the block ends and both sides have closed."""
        self._thread.start()
        try:
            yield self
        finally:
            self._thread.join(60)
            self._sock.close()

    def _serve(self) -> None:
        client, _ = self._sock.accept()
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            while not self.asked.endswith(b"\r\n\r\n"):
                self.asked += client.recv(4096)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(server, client))
            back.start()
            pump(client, server)
            back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_the_proxys_password_goes_to_the_proxy_and_no_further(certificates: Path) -> None:
    far = HostPolicy.of("https://api.example/api/v1", [], allow_http=False)
    # Its certificate is good for the name that the proxy is asked for.
    with (
        Server(certificates, "wrong_host").serving() as server,
        Proxy(server).serving() as proxy,
        object_store.build_client(
            ca_bundle=str(certificates / "known.pem"), proxy=proxy.url
        ) as client,
    ):
        grant = Grant("https://elsewhere.example/key?X-Amz-Signature=1", {}, 2**53)
        object_store.ObjectStore(client, far).put(
            grant, [BODY], len(BODY), call=Call.PUT_PART, now_ms=lambda: 0
        )

    assert b"CONNECT elsewhere.example:443" in proxy.asked
    assert b"Proxy-Authorization: Basic " in proxy.asked
    assert b"X-Amz-Signature" not in proxy.asked
    assert server.heard.endswith(BODY)
    assert b"authorization" not in server.heard.lower()
