"""
An S3 endpoint over TLS that discards all data.

It answers the requests of uploaders and checks no signatures and no digests, so a run measures the
sender only. It stores the sizes of objects. The header ``x-received`` of ``GET /-/received`` contains
the number of body bytes received.

Run as ``python -m bench.sink ADDRESS CERTIFICATE KEY``: it prints its port and serves until stdin
ends.
"""

import os
import socket
import ssl
import sys
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 1024 * 1024
HEAD_MAX = 64 * 1024

_STARTED = (
    '<?xml version="1.0" encoding="UTF-8"?><InitiateMultipartUploadResult><Bucket>{bucket}</Bucket>'
    "<Key>{key}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
)
_COMPLETED = (
    '<?xml version="1.0" encoding="UTF-8"?><CompleteMultipartUploadResult><Bucket>{bucket}</Bucket>'
    '<Key>{key}</Key><ETag>"{id}-1"</ETag></CompleteMultipartUploadResult>'
)
_EMPTY = (
    '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>{bucket}</Name>'
    "<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
)


@dataclass(slots=True)
class Objects:
    """Sizes by path, parts of unfinished uploads, and the number of body bytes received."""

    sizes: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, dict[int, int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    received: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose body has not been read yet."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", 0))

    @property
    def stored(self) -> int:
        """Size of the object in the body, without chunk signatures."""
        return int(self.headers.get("x-amz-decoded-content-length", self.length))

    def one(self, name: str) -> str:
        return self.query[name][0]


class Connection:
    """Serves one client until it disconnects."""

    def __init__(self, stream: ssl.SSLSocket, objects: Objects) -> None:
        self._stream = stream
        self._objects = objects
        self._buffer = bytearray(PIECE)
        self._ahead = b""

    def serve(self) -> None:
        while (request := self._request()) is not None:
            if request.headers.get("expect", "").lower() == "100-continue":
                self._stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._discard(request)
            self._stream.sendall(self._answer(request))

    def _request(self) -> Request | None:
        data = self._ahead
        while b"\r\n\r\n" not in data:
            more = self._stream.recv(HEAD_MAX)
            if not more or len(data) > HEAD_MAX:
                return None
            data += more
        head, _, self._ahead = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        url = urlsplit(target)
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        query = parse_qs(url.query, keep_blank_values=True)
        return Request(method, unquote(url.path), query, headers)

    def _discard(self, request: Request) -> None:
        if "chunked" in request.headers.get("transfer-encoding", ""):
            raise ConnectionError("a body needs a Content-Length")
        left = request.length - len(self._ahead)
        if left < 0:
            self._ahead = self._ahead[request.length :]
            return
        self._ahead = b""
        view = memoryview(self._buffer)
        while left:
            count = self._stream.recv_into(view[: min(left, PIECE)])
            if not count:
                raise ConnectionError("the client disconnected in a body")
            left -= count

    def _answer(self, request: Request) -> bytes:
        objects, path, query = self._objects, request.path, request.query
        _, bucket, key = (*path.split("/", 2), "")[:3]
        with objects.lock:
            objects.received += request.length
            match request.method:
                case "GET" if path == "/-/received":
                    return _reply(200, received=objects.received)
                case "HEAD" | "GET" if not key:
                    return _reply(200, _EMPTY.format(bucket=bucket), head=request.method == "HEAD")
                case "HEAD" | "GET" if path in objects.sizes:
                    return _reply(200, size=objects.sizes[path], head=True)
                case "HEAD" | "GET":
                    return _reply(404, head=request.method == "HEAD")
                case "POST" if "uploads" in query:
                    upload = f"{len(objects.uploads):032x}"
                    objects.uploads[upload] = {}
                    return _reply(200, _STARTED.format(bucket=bucket, key=key, id=upload))
                case "PUT" if "uploadId" in query:
                    number = int(request.one("partNumber"))
                    objects.uploads[request.one("uploadId")][number] = request.stored
                case "POST" if "uploadId" in query:
                    parts = objects.uploads.pop(request.one("uploadId"))
                    objects.sizes[path] = sum(parts.values())
                    completed = _COMPLETED.format(bucket=bucket, key=key, id="0" * 32)
                    return _reply(200, completed)
                case "PUT" if key:
                    objects.sizes[path] = request.stored
                case "DELETE":
                    objects.sizes.pop(path, None)
                    return _reply(204)
        return _reply(200)


def _reply(
    status: int, body: str = "", *, size: int | None = None, head: bool = False, received: int = 0
) -> bytes:
    data = body.encode()
    lines = (
        f"HTTP/1.1 {status} OK",
        f"Content-Length: {len(data) if size is None else size}",
        'ETag: "00000000000000000000000000000000-1"',
        "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
        "Content-Type: application/xml",
        "x-amz-request-id: 0",
        f"x-received: {received}",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + (b"" if head else data)


def serve(address: str, certificate: str, key: str) -> None:
    """Print the port, then serve until stdin ends."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    objects = Objects()

    def serve_one(raw: socket.socket) -> None:
        try:
            with context.wrap_socket(raw, server_side=True) as stream:
                Connection(stream, objects).serve()
        except OSError:
            raw.close()

    with socket.create_server((address, 0), backlog=256) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            raw, _ = listener.accept()
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve_one, args=(raw,), daemon=True).start()


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    serve(*sys.argv[1:4])
