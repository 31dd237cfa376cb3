"""
The object store: presigned PUTs of bodies and parts.

Synchronous, for the sending threads, and bare: a presigned URL is the only credential, so there is
no Authorization, no cookie, no header that was not asked for. What the grant says goes out byte for
byte, with a Content-Length, since a chunked body would be refused. A try is one request; whoever
holds the file makes a fresh body for the next one.
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
"""Seconds for an answer as a whole, interim ones included, from when it is first waited for."""

PIECE_S = 600.0
"""Seconds in which the store has to take a piece of a body, which is about 1 KiB/s."""

ANSWER_MAX = 64 * 1024
"""Bytes of an answer that are read; the store says nothing useful beyond."""

CONNECTIONS = 32

_ETAG = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")


HttpClient = httpx.Client


def build_client(*, ca_bundle: str | None = None, proxy: str | None = None) -> httpx.Client:
    """
    The HTTP client for the store, for at most 32 threads: HTTP/1.1, no redirects.

    Args:
        ca_bundle: A PEM file trusted beside the system's certificates.
        proxy: A proxy's URL; None: what the environment's ``HTTPS_PROXY`` and ``NO_PROXY`` say.

    Raises:
        ConfigError: The bundle or the proxy cannot be used.
    """
    return httpx.Client(
        **http.client_arguments(ca_bundle=ca_bundle, proxy=proxy),
        limits=httpx.Limits(
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=http.KEEPALIVE_S,
        ),
    )


class Exchange:
    """
    One request and its answer, which another thread can watch and cut off.

    httpx bounds each wait for bytes, not their sum: a store that sends a byte now and then, or one
    interim answer after the other, would hold the sending thread for ever.

    Args:
        answer_s: Seconds for the answer as a whole.
    """

    def __init__(self, *, answer_s: float | None = None) -> None:
        self._answer_s = WHOLE_ANSWER_S if answer_s is None else answer_s
        self._answer_by_s = float("inf")
        self._given_at_s: float | None = None
        self._stream: Any = None
        self._lock = threading.Lock()
        self.cut_because: str | None = None

    # -- in any thread ---------------------------------------------------------------------------

    def cut(self, reason: str) -> None:
        """Break the connection: whatever the sending thread waits for on it ends at once."""
        with self._lock:
            self.cut_because = self.cut_because or reason
            if self._stream is not None:
                sock = self._stream.get_extra_info("socket")
                with suppress(OSError):
                    # Not the method of a TLS socket, which would let go of its encryption first.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def cut_if_stuck(self) -> None:
        """Break the connection if the store has not taken the last piece in time."""
        given_at_s = self._given_at_s
        if given_at_s is not None and time.monotonic() - given_at_s > PIECE_S:
            self.cut(f"the store did not take a piece within {PIECE_S:.0f} s")

    # -- in the sending thread -------------------------------------------------------------------

    def uses(self, stream: Any) -> None:
        """The request goes over *stream*, of httpcore."""
        with self._lock:
            self._stream = stream
        if self.cut_because is not None:
            self.cut(self.cut_because)

    def ends(self) -> None:
        """The connection is no longer this request's."""
        with self._lock:
            self._stream = None

    def gives(self, *, piece: bool) -> None:
        """A piece is handed over for sending, or the next one is asked for."""
        self._given_at_s = time.monotonic() if piece else None

    def awaits_answer(self) -> None:
        """Start the time limit of the answer."""
        self._given_at_s, self._answer_by_s = None, time.monotonic() + self._answer_s

    def left_s(self, silence_s: float | None) -> float:
        """
        Seconds that the next wait for bytes may take.

        Raises:
            httpcore.ReadTimeout: The time limit of the whole answer is over.
        """
        left_s = self._answer_by_s - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout(f"no whole answer within {self._answer_s:g} s")
        return left_s if silence_s is None else min(left_s, silence_s)


_here = threading.local()
"""``exchange``: the one of the request that this thread is sending."""


def _follow_exchanges(stream: Any) -> None:
    """Apply the limits of each exchange that uses *stream*, a new connection."""
    read, write = stream.read, stream.write

    def bounded_read(max_bytes: int, timeout: float | None = None) -> bytes:
        content: bytes = read(max_bytes, _here.exchange.left_s(timeout))
        return content

    def known_write(buffer: bytes, timeout: float | None = None) -> None:
        _here.exchange.uses(stream)
        write(buffer, timeout)

    stream.read, stream.write = bounded_read, known_write


class _Body(httpx.SyncByteStream):
    """The pieces of a body, held to its announced size, and whether all of them were taken."""

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
            self._exchange.gives(piece=True)
            yield piece  # type: ignore[misc]  # h11 takes any buffer: a copy less
            self._exchange.gives(piece=False)
        if self._left != 0:
            raise to_error(Kind.INTERNAL_ERROR, "a body is not as long as it was announced")
        self.taken = True


class _Trace:
    """What httpcore did for one request; a new connection gets our socket options on the way."""

    def __init__(self, call: Call, url: httpx.URL, hosts: HostPolicy, exchange: Exchange) -> None:
        self._exchange = exchange
        self.events: set[str] = set()
        self._call = call
        self._host = url.raw_host.decode("ascii")  # as httpcore has it: "xn--..." is not decoded
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
            self._exchange.awaits_answer()

    def _check_peer(self, stream: Any) -> None:
        address = stream.get_extra_info("server_addr")[0]
        reason = self._hosts.peer_refusal(self._host, self._port, address) if self._direct else None
        if reason is not None:
            stream.close()
            raise NeedsOperator(
                f"{self._call}: nothing was sent: {reason}",
                kind=Kind.INVALID_ANSWER,
                call=self._call,
                advice=f"If that is your store, set network.storage_hosts to {self._host}.",
            )


class ObjectStore:
    """
    Sends bodies to presigned URLs.

    Args:
        client: From ``build_client``; shared by all sending threads.
        hosts: Where bytes may go, by the address that a name led to.
        on_request: Called after each request, in the sending thread, with the status of its answer,
            None if none came.
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
        Send *body* to the grant's URL, once, and return the ETag exactly as it came.

        What *body* raises comes out unchanged, and the connection is cut so that nothing is stored.

        Args:
            body: Pieces that make *size* bytes.
            call: ``PUT_BODY`` or ``PUT_PART``; only a part must have an ETag.
            now_ms: The clock that the grant's deadline is on.
            exchange: Lets another thread cut the request off.

        Raises:
            JobError: Its kind is the row of the retry table; ``unclear`` if the store may hold the
                body all the same.
            NeedsOperator: The host's name led to an address that nothing may be sent to.
        """
        assert call in STORE_CALLS
        url = http.url_of(grant.url)
        exchange = exchange or Exchange()
        pieces = _Body(body, size, exchange)
        trace = _Trace(call, url, self._hosts, exchange)
        request = _request(grant, url, pieces, size, trace)
        try:
            response, content = self._answer(request, exchange)
        except httpx.HTTPError as error:
            self._on_request(call, None)
            if exchange.cut_because is not None:
                raise _cut(call, exchange.cut_because) from None
            raise http.failure(
                call, error, host=request.url.host, events=trace.events, now_ms=now_ms()
            ) from None
        if exchange.cut_because is not None:  # an answer without a length ends like this, too
            raise _cut(call, exchange.cut_because)
        self._on_request(call, response.status_code)
        refusal = _refusal(call, response, content, late=now_ms() > grant.deadline_ms)
        if refusal is not None:
            _cut_if_told(refusal, call, response)
            raise refusal
        return _etag(call, response, whole=pieces.taken)

    def _answer(self, request: httpx.Request, exchange: Exchange) -> tuple[httpx.Response, bytes]:
        """Send *request*, once, and read its answer."""
        _here.exchange = exchange
        try:
            response = self._client.send(request, stream=True)
            try:
                return response, _content(response)
            finally:
                response.close()
        finally:
            exchange.ends()


def _cut(call: Call, reason: str) -> JobError:
    return to_error(Kind.NETWORK, f"{call}: {reason}", call=call, unclear=True, timed_out=True)


def _request(grant: Grant, url: httpx.URL, body: _Body, size: int, trace: _Trace) -> httpx.Request:
    """Made by hand: httpx then adds nothing, and a stream is not sent chunked."""
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


def _cut_if_told(refusal: JobError, call: Call, response: httpx.Response) -> None:
    """Some refusals are about the connection: the pool finds this one closed and drops it."""
    stream = response.extensions.get("network_stream")
    if stream is not None and retry_policy.row_of(refusal.kind, call).fresh_connection:
        stream.close()


def _etag(call: Call, response: httpx.Response, *, whole: bool) -> str | None:
    host = response.request.url.host
    if not whole:
        raise _bad(call, f"{host} said it stored a body that it had not been sent whole")
    etags = response.headers.get_list("ETag")
    if len(etags) == 1 and _ETAG.fullmatch(etags[0]):
        return etags[0]
    if call is Call.PUT_PART:
        raise _bad(call, f"{host} stored a part and gave no usable ETag for it")
    return None


def _bad(call: Call, message: str) -> JobError:
    return to_error(Kind.INVALID_ANSWER, f"{call}: {message}", call=call, unclear=True)
