"""A model server that stalls in the middle of every body, and knows byte ranges and hub clients."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.weights import sha256_of

COMMIT = "c0ffee" + "0" * 34
"""The only revision of every repository."""


class _Handler(BaseHTTPRequestHandler):
    """``/<name>?of=<file>&stall_s=<n>``, or as a hub client asks: ``/<n>/<folder>/…/<name>``."""

    protocol_version = "HTTP/1.1"
    server: "SlowServer"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        file, stall_s = self._asked_for()
        content = file.read_bytes()
        first, last, status = 0, len(content) - 1, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last, status = int(wanted[1]), int(wanted[2] or last), 206
        self.send_response(status)
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{sha256_of(file)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if body:
            self._send(content[first : last + 1], stall_s)

    def _asked_for(self) -> tuple[Path, float]:
        address = urlsplit(self.path)
        if address.query:
            asked = parse_qs(address.query)
            return self.server.folder / asked["of"][0], float(asked["stall_s"][0])
        stall_s, repository = address.path.split("/")[1:3]
        return self.server.folder / repository / address.path.rpartition("/")[2], float(stall_s)

    def _send(self, content: bytes, stall_s: float) -> None:
        half = len(content) // 2
        try:
            self.wfile.write(content[:half])
            self.wfile.flush()
            self.server.ending.wait(stall_s)
            self.wfile.write(content[half:])
        except OSError:
            self.close_connection = True  # the client was killed

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class SlowServer(ThreadingHTTPServer):
    """Serves the files in *folder*."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ending = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(folder: Path) -> Iterator[SlowServer]:
    """A server that runs in threads of this process."""
    with SlowServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.ending.set()
            server.shutdown()
            thread.join()
