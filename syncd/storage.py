"""
The object store: presigned PUTs of bodies and parts.

Synchronous, for the sending threads, and bare: a presigned URL is the only credential, so there is
no Authorization, no cookie, no header that was not asked for. What the grant says goes out byte for
byte, with a Content-Length, since a chunked body would be refused. A try is one request; whoever
holds the file makes a fresh body for the next one.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx

from syncd import wire
from syncd.core import responses, retry
from syncd.core.answers import HostPolicy
from syncd.core.responses import STORE_CALLS, to_error
from syncd.errors import JobError, NeedsOperator
from syncd.model import Call, Grant, Kind

TIMEOUT = httpx.Timeout(connect=10.0, write=30.0, read=120.0, pool=None)
ANSWER_MAX = 64 * 1024
"""Bytes of an answer that are read; the store says nothing useful beyond."""

CONNECTIONS = 32

_ETAG = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")


Client = httpx.Client
"""For whoever has to name what ``build_client`` makes."""


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
        **wire.client_arguments(ca_bundle=ca_bundle, proxy=proxy),
        limits=httpx.Limits(
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=wire.KEEPALIVE_S,
        ),
    )


class _Body(httpx.SyncByteStream):
    """The pieces of a body, held to its announced size, and whether all of them were taken."""

    def __init__(self, pieces: Iterable[bytes | memoryview], size: int) -> None:
        self._pieces = pieces
        self._left = size
        self.taken = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._left -= len(piece)
            if self._left < 0:
                break
            yield piece  # type: ignore[misc]  # h11 takes any buffer: a copy less
        if self._left != 0:
            raise to_error(Kind.OUR_BUG, "a body is not as long as it was announced")
        self.taken = True


class _Trace:
    """What httpcore did for one request; a new connection gets our socket options on the way."""

    def __init__(self, call: Call, url: httpx.URL, hosts: HostPolicy) -> None:
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
            wire.notice_silence(stream)
            wire.keep_pace_despite_loss(stream)

    def _check_peer(self, stream: Any) -> None:
        address = stream.get_extra_info("server_addr")[0]
        why = self._hosts.peer_refusal(self._host, self._port, address) if self._direct else None
        if why is not None:
            stream.close()
            raise NeedsOperator(
                f"{self._call}: nothing was sent: {why}",
                kind=Kind.BAD_ANSWER,
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
    ) -> str | None:
        """
        Send *body* to the grant's URL, once, and return the ETag exactly as it came.

        What *body* raises comes out unchanged, and the connection is cut so that nothing is stored.

        Args:
            body: Pieces that make *size* bytes.
            call: ``PUT_BODY`` or ``PUT_PART``; only a part must have an ETag.
            now_ms: The clock that the grant's deadline is on.

        Raises:
            JobError: Its kind is the row of the retry table; ``unclear`` if the store may hold the
                body all the same.
            NeedsOperator: The host's name led to an address that nothing may be sent to.
        """
        assert call in STORE_CALLS
        url = wire.url_of(grant.url)
        pieces, trace = _Body(body, size), _Trace(call, url, self._hosts)
        request = _request(grant, url, pieces, size, trace)
        try:
            response = self._client.send(request, stream=True)
            try:
                content = _content(response)
            finally:
                response.close()
        except httpx.HTTPError as error:
            self._on_request(call, None)
            raise wire.failure(
                call, error, host=request.url.host, events=trace.events, now_ms=now_ms()
            ) from None
        self._on_request(call, response.status_code)
        refusal = _refusal(call, response, content, late=now_ms() > grant.deadline_ms)
        if refusal is not None:
            _cut_if_told(refusal, call, response)
            raise refusal
        return _etag(call, response, whole=pieces.taken)


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
    code = responses.s3_code(content)
    retry_after_s = retry.retry_after(headers.get("Retry-After"), headers.get("Date"))
    kind = responses.classify(
        call,
        status,
        s3_code=code,
        past_deadline=late,
        retry_after_s=retry_after_s,
        html=responses.looks_like_html(headers.get("Content-Type"), content),
    )
    if kind is None:
        return None
    return to_error(
        kind,
        f"{call}: HTTP {status} {code or ''}".rstrip() + f" from {host}",
        call=call,
        retry_after_s=retry_after_s,
        unclear=responses.leaves_doubt(status),
    )


def _cut_if_told(refusal: JobError, call: Call, response: httpx.Response) -> None:
    """Some refusals are about the connection: the pool finds this one closed and drops it."""
    stream = response.extensions.get("network_stream")
    if stream is not None and retry.row_of(refusal.kind, call).fresh_connection:
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
    return to_error(Kind.BAD_ANSWER, f"{call}: {message}", call=call, unclear=True)
