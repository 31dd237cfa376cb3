"""
Sends bodies and parts to presigned URLs of the object store.

The client is synchronous, for the sending threads. The presigned URL is the only credential, so a
request carries no Authorization, no cookie, and no header except those of the grant, unchanged, and a
Content-Length, because the store refuses a chunked body. ``put`` sends one request; a retry needs a new
body from the caller.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import httpcore
import httpx

from syncd.cloud import http
from syncd.cloud.host_policy import HostPolicy
from syncd.core.jobs import error_mapping, retry_policy
from syncd.core.jobs.error_mapping import STORE_CALLS, to_error
from syncd.errors import JobError, NeedsOperator
from syncd.types import Call, Grant, Kind

TIMEOUT = httpx.Timeout(connect=10.0, write=30.0, read=120.0, pool=None)
WHOLE_ANSWER_S = 180.0
"""Seconds for a complete answer, including interim answers, from the end of the body."""

PIECE_S = 600.0
"""Seconds in which the store must accept one piece of a body: about 1 KiB/s."""

ANSWER_MAX = 64 * 1024
"""Bytes of an answer that are read."""

CONNECTIONS = 32

_ETAG = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")


HttpClient = httpx.Client


def build_client(*, ca_bundle: str | None = None, proxy: str | None = None) -> httpx.Client:
    """Build the HTTP client; for the arguments and errors see ``http.client_arguments``."""
    limits = httpx.Limits(
        max_connections=CONNECTIONS,
        max_keepalive_connections=CONNECTIONS,
        keepalive_expiry=http.KEEPALIVE_S,
    )
    return httpx.Client(**http.client_arguments(ca_bundle=ca_bundle, proxy=proxy), limits=limits)


class Exchange:
    """
    One request and its answer, which another thread can abort.

    httpx bounds each wait for bytes, not their sum: a store that trickles bytes, or sends one interim
    answer after another, would block the sending thread forever.

    Args:
        answer_s: Seconds for the complete answer.
    """

    def __init__(self, *, answer_s: float | None = None) -> None:
        self._answer_s = WHOLE_ANSWER_S if answer_s is None else answer_s
        self._answer_by_s = float("inf")
        self._sent_at_s: float | None = None
        self._stream: Any = None
        self._lock = threading.Lock()
        self.cut_because: str | None = None

    def cut(self, reason: str) -> None:
        """Break the connection, which ends every wait of the sending thread at once."""
        with self._lock:
            self.cut_because = self.cut_because or reason
            if self._stream is not None:
                sock = self._stream.get_extra_info("socket")
                with suppress(OSError):
                    # The method of a TLS socket would remove the encryption first.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def cut_if_stuck(self) -> None:
        """Break the connection if the store has not accepted the last piece in time."""
        sent_at_s = self._sent_at_s
        if sent_at_s is not None and time.monotonic() - sent_at_s > PIECE_S:
            self.cut(f"the store did not accept a piece within {PIECE_S:.0f} s")

    def attach(self, stream: Any) -> None:
        with self._lock:
            self._stream = stream
        if self.cut_because is not None:
            self.cut(self.cut_because)

    def detach(self) -> None:
        with self._lock:
            self._stream = None

    def sending(self, *, piece: bool) -> None:
        """Start the time limit of a piece that is sent, or end it."""
        self._sent_at_s = time.monotonic() if piece else None

    def wait_for_answer(self) -> None:
        """Start the time limit of the answer."""
        self._sent_at_s, self._answer_by_s = None, time.monotonic() + self._answer_s

    def left_s(self, silence_s: float | None) -> float:
        """
        Return the seconds that the next wait for bytes may take.

        Raises:
            httpcore.ReadTimeout: The time limit of the complete answer is over.
        """
        left_s = self._answer_by_s - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout(f"no complete answer within {self._answer_s:g} s")
        return left_s if silence_s is None else min(left_s, silence_s)


_thread = threading.local()
"""``exchange``: that of the request which this thread is sending."""


def _follow_exchanges(stream: Any) -> None:
    """Apply the time limits of each exchange that uses *stream*, a new connection."""
    read, write = stream.read, stream.write

    def bounded_read(max_bytes: int, timeout: float | None = None) -> bytes:
        content: bytes = read(max_bytes, _thread.exchange.left_s(timeout))
        return content

    def watched_write(buffer: bytes, timeout: float | None = None) -> None:
        _thread.exchange.attach(stream)
        write(buffer, timeout)

    stream.read, stream.write = bounded_read, watched_write


class _Body(httpx.SyncByteStream):
    """The pieces of a body, checked against its announced size; ``taken`` once all are sent."""

    def __init__(self, pieces: Iterable[bytes | memoryview], size: int, exchange: Exchange) -> None:
        self._pieces = pieces
        self._left = size
        self._exchange = exchange
        self.taken = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._left -= len(piece)
            if self._left < 0:
                break
            self._exchange.sending(piece=True)
            yield piece  # type: ignore[misc]  # h11 accepts any buffer, which saves a copy
            self._exchange.sending(piece=False)
        if self._left != 0:
            raise to_error(Kind.INTERNAL_ERROR, "a body differs in length from its Content-Length")
        self.taken = True


class _Trace:
    """The httpcore trace events of one request; checks and configures a new connection."""

    def __init__(self, call: Call, url: httpx.URL, hosts: HostPolicy, exchange: Exchange) -> None:
        self._exchange = exchange
        self.events: set[str] = set()
        self._call = call
        self._host = url.raw_host.decode("ascii")  # as in httpcore, where "xn--..." is not decoded
        self._port = url.port or {"http": 80, "https": 443}[url.scheme]
        self._hosts = hosts
        self._direct = True

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.events.add(event)
        if event == "connection.connect_tcp.started":
            self._direct = info["host"] == self._host  # a proxy resolves the name itself
        elif event == "connection.connect_tcp.complete":
            stream = info["return_value"]
            self._check_peer(stream)
            http.enable_tcp_keepalive(stream)
            http.enable_bbr(stream)
            _follow_exchanges(stream)
        elif event.endswith(".start_tls.complete"):
            _follow_exchanges(info["return_value"])
        elif event == "http11.receive_response_headers.started":
            self._exchange.wait_for_answer()

    def _check_peer(self, stream: Any) -> None:
        address = stream.get_extra_info("server_addr")[0]
        reason = self._hosts.peer_refusal(self._host, self._port, address) if self._direct else None
        if reason is not None:
            stream.close()
            raise NeedsOperator(
                f"{self._call}: nothing was sent: {reason}",
                kind=Kind.INVALID_ANSWER,
                call=self._call,
                advice=f"If this is your object store, add {self._host} to network.storage_hosts.",
            )


class ObjectStore:
    """
    Sends bodies to presigned URLs.

    Args:
        on_request: Called after each request, in the sending thread, with the status of its answer,
            None if none arrived.
    """

    def __init__(
        self,
        client: httpx.Client,
        hosts: HostPolicy,
        *,
        on_request: Callable[[Call, int | None], None] = lambda call, status: None,
    ) -> None:
        self._client = client
        self._hosts = hosts
        self._on_request = on_request

    def put(
        self,
        grant: Grant,
        body: Iterable[bytes | memoryview],
        size: int,
        *,
        call: Call,
        now_ms: Callable[[], int],
        exchange: Exchange | None = None,
    ) -> str | None:
        """
        Send *body* to the grant's URL once and return the ETag verbatim.

        If *body* raises, the error is passed on, and the connection is closed so that nothing is stored.

        Args:
            body: Pieces of *size* bytes in total.
            call: ``PUT_BODY`` or ``PUT_PART``; only a part must have an ETag.
            now_ms: The clock of the grant's deadline.
            exchange: Lets another thread abort the request.

        Raises:
            JobError: Its ``kind`` is the row of the retry table; ``unclear`` if the store may have
                stored the body.
            NeedsOperator: The host resolved to an address that must not receive bytes.
        """
        assert call in STORE_CALLS
        url = http.url_of(grant.url)
        exchange = exchange or Exchange()
        pieces = _Body(body, size, exchange)
        trace = _Trace(call, url, self._hosts, exchange)
        request = _request(grant, url, pieces, size, trace)
        failed: httpx.HTTPError | None = None
        try:
            response, content = self._answer(request, exchange)
        except httpx.HTTPError as error:
            failed = error
        self._on_request(call, None if failed is not None else response.status_code)
        if (
            reason := exchange.cut_because
        ) is not None:  # an answer without a length may end so, too
            message = f"{call}: {reason}"
            raise to_error(Kind.NETWORK, message, call=call, unclear=True, timed_out=True)
        if failed is not None:
            host, events = request.url.host, trace.events
            raise http.failure(call, failed, host=host, events=events, now_ms=now_ms())
        refusal = _refusal(call, response, content, late=now_ms() > grant.deadline_ms)
        if refusal is not None:
            _close_if_required(refusal, call, response)
            raise refusal
        return _etag(call, response, whole=pieces.taken)

    def _answer(self, request: httpx.Request, exchange: Exchange) -> tuple[httpx.Response, bytes]:
        _thread.exchange = exchange
        try:
            response = self._client.send(request, stream=True)
            try:
                return response, _content(response)
            finally:
                response.close()
        finally:
            exchange.detach()


def _request(grant: Grant, url: httpx.URL, body: _Body, size: int, trace: _Trace) -> httpx.Request:
    """Build the request by hand, so that httpx adds no header and does not send chunks."""
    names = {name.lower() for name in grant.headers}
    ours = {"Host": url.netloc.decode("ascii"), "Content-Length": str(size)}
    headers = [(name, value) for name, value in ours.items() if name.lower() not in names]
    return httpx.Request(
        "PUT",
        url,
        headers=[*headers, *grant.headers.items()],
        stream=body,
        extensions={"timeout": TIMEOUT.as_dict(), "trace": trace},
    )


def _content(response: httpx.Response) -> bytes:
    content = bytearray()
    for piece in response.iter_raw():
        content += piece
        if len(content) > ANSWER_MAX:
            break
    return bytes(content)


def _refusal(
    call: Call, response: httpx.Response, content: bytes, *, late: bool
) -> JobError | None:
    status, headers, host = response.status_code, response.headers, response.request.url.host
    code = error_mapping.s3_code(content)
    retry_after_s = retry_policy.retry_after(headers.get("Retry-After"), headers.get("Date"))
    kind = error_mapping.classify(
        call,
        status,
        s3_code=code,
        past_deadline=late,
        retry_after_s=retry_after_s,
        html=error_mapping.looks_like_html(headers.get("Content-Type"), content),
    )
    if kind is None:
        return None
    return to_error(
        kind,
        f"{call}: HTTP {status} {code or ''}".rstrip() + f" from {host}",
        call=call,
        retry_after_s=retry_after_s,
        unclear=error_mapping.leaves_doubt(status),
    )


def _close_if_required(refusal: JobError, call: Call, response: httpx.Response) -> None:
    """Close the connection if the retry table asks for a new one; the pool then drops it."""
    stream = response.extensions.get("network_stream")
    if stream is not None and retry_policy.row_of(refusal.kind, call).fresh_connection:
        stream.close()


def _etag(call: Call, response: httpx.Response, *, whole: bool) -> str | None:
    host = response.request.url.host
    if not whole:
        raise _bad(call, f"{host} reported success before the whole body was sent")
    etags = response.headers.get_list("ETag")
    if len(etags) == 1 and _ETAG.fullmatch(etags[0]):
        return etags[0]
    if call is Call.PUT_PART:
        raise _bad(call, f"{host} stored a part without a usable ETag")
    return None


def _bad(call: Call, message: str) -> JobError:
    return to_error(Kind.INVALID_ANSWER, f"{call}: {message}", call=call, unclear=True)
