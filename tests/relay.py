"""What stands between the command and a real S3 server: it sees every request and can spoil one."""

import http.client
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

UPSTREAM_S = 30.0
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that arrived whole; ``target`` is path and query as they came."""

    method: str
    target: str
    size: int

    @property
    def query(self) -> Mapping[str, str]:
        """The query's members, decoded."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def part(self) -> int | None:
        """Part number of an UploadPart."""
        number = self.query.get("partNumber")
        return int(number) if number else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Relay:
    """
    An HTTP/1.1 relay; ``Host`` goes through as it came, for the signatures cover it.

    ``before`` may answer in the server's place. ``after`` may change what the server said, and
    with None the connection closes without a word.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.seen: list[tuple[Seen, int]] = []
        self.before: Callable[[Seen], Answer | None] = lambda seen: None
        self.after: Callable[[Seen, Answer], Answer | None] = lambda seen, answer: answer
        self.url = ""

    def puts(self) -> list[Seen]:
        """PUTs with a presigned URL that the server took, in the order of its answers."""
        return [s for s, status in self.seen if "X-Amz-Signature" in s.query and status == 200]

    def answer(self, seen: Seen, headers: list[tuple[str, str]], body: bytes) -> Answer | None:
        """Ask the server, unless ``before`` knows better."""
        answer = self.before(seen)
        if answer is None:
            answer = self._ask(seen, headers, body)
            self.seen.append((seen, answer.status))
        return self.after(seen, answer)

    def _ask(self, seen: Seen, headers: list[tuple[str, str]], body: bytes) -> Answer:
        host, port = self.upstream.hostname, self.upstream.port
        assert host is not None, "the upstream is a URL"
        with closing(http.client.HTTPConnection(host, port, timeout=UPSTREAM_S)) as connection:
            connection.putrequest(
                seen.method, seen.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            content = response.read()
            return Answer(response.status, dict(response.getheaders()), content)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    relay: Relay

    def do_PUT(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:  # the client died
            self.close_connection = True
            return
        seen = Seen(self.command, self.path, size)
        answer = self.relay.answer(seen, list(self.headers.items()), body)
        if answer is None:
            self.close_connection = True
        else:
            self._say(answer)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT  # noqa: N815 - names that the library looks for

    def _say(self, answer: Answer) -> None:
        told = {name.lower(): value for name, value in answer.headers.items()}
        length = told.get("content-length") if self.command == "HEAD" else str(len(answer.body))
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests read ``seen`` instead."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def relaying(upstream: str) -> Iterator[Relay]:
    """A relay in front of *upstream*, a URL without a path, on a port of its own."""
    relay = Relay(upstream)
    handler = type("Handler", (_Handler,), {"relay": relay})
    with _Server(("127.0.0.1", 0), handler) as server:
        relay.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield relay
        finally:
            server.shutdown()
            thread.join()
