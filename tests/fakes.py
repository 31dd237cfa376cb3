"""What stands at the far side of the doors in tests: a clock turned by hand, a scripted server."""

import queue
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Self


class FakeClock:
    """A clock that stands still until somebody sleeps on it; ``slept`` lists for how long."""

    def __init__(self, *, now_ms: int = 1_767_225_600_000, boottime_s: float = 1000.0) -> None:
        self.slept: list[float] = []
        self._now_ms = now_ms
        self._boottime_s = boottime_s
        self._suspended_s = 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def boottime_s(self) -> float:
        return self._boottime_s

    def suspended_s(self) -> float:
        return self._suspended_s

    def suspend(self, seconds: float) -> None:
        """The machine sleeps."""
        self._suspended_s += seconds
        self.advance(seconds)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._now_ms += round(seconds * 1000)
        self._boottime_s += seconds


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What the server does with one request.

    ``answer`` is sent as it stands; empty, the connection is closed without one. ``early`` answers
    after the request's head, without reading its body. ``endless`` goes on answering until the
    client leaves.
    """

    answer: bytes = b""
    early: bool = False
    close: bool = False
    endless: bool = False


def reply(
    status: int,
    body: bytes | str = b"",
    *,
    headers: dict[str, str] | None = None,
    early: bool = False,
    close: bool = False,
) -> Reply:
    """A well-formed answer with a Content-Length."""
    content = body.encode() if isinstance(body, str) else body
    fields = {"Content-Length": str(len(content)), **(headers or {})}
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{n}: {v}" for n, v in fields.items()), "", ""]
    return Reply("\r\n".join(lines).encode("latin-1") + content, early, close)


def endless(status: int) -> Reply:
    """An answer whose body never ends."""
    return Reply(f"HTTP/1.1 {status} Scripted\r\n\r\n".encode(), endless=True)


LOST = Reply()
"""The request is read whole, and the connection closed without an answer."""


@dataclass(slots=True)
class Seen:
    """A request as it came off the wire; ``connection`` counts from 1."""

    connection: int
    head: bytes
    body: bytes = b""
    whole: bool = False

    @property
    def request_line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").rstrip("\r\n").split("\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


@dataclass(slots=True)
class ScriptedServer:
    """An HTTP/1.1 server on a real loopback socket that plays *script*, one reply a request."""

    script: list[Reply]
    seen: list[Seen] = field(default_factory=list)
    port: int = 0
    _ended: queue.Queue[Seen] = field(default_factory=queue.Queue)
    _listener: socket.socket = field(init=False)
    _thread: threading.Thread = field(init=False)
    _connections: list[socket.socket] = field(default_factory=list)
    _workers: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for worker in self._workers:
            worker.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next_read(self) -> Seen:
        """The next request whose body has been read, to its end or as far as it came."""
        return self._ended.get(timeout=60)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            worker = threading.Thread(target=self._serve, args=(connection, len(self._connections)))
            self._workers.append(worker)
            worker.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            while self._one(connection, stream, number):
                pass

    def _one(self, connection: socket.socket, stream: IO[bytes], number: int) -> bool:
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return False
            head += line
        seen = Seen(number, bytes(head))
        self.seen.append(seen)
        step = self.script.pop(0) if self.script else reply(599, "nothing scripted")
        length = int(seen.header("Content-Length") or 0)
        if not step.early:
            seen.body = stream.read(length)
            seen.whole = len(seen.body) == length
            self._ended.put(seen)
            if not seen.whole:
                return False
        if step.answer:
            connection.sendall(step.answer)
        while step.endless:
            connection.sendall(b" " * 65536)
        return bool(step.answer) and not step.close and not step.early
