"""
Sends single requests to the cloud API: rate limit, credential, timeouts, retries.

``core.jobs.error_mapping`` classifies each answer, and ``core.jobs.retry_policy`` decides whether the
same request is repeated. A register, complete or initiate call is not repeated while an earlier one
may have taken effect: it raises an ``unclear`` error at once, and the worker checks first.

No error message contains the token or the query of a URL. Redirects are never followed, so the token
never reaches another host.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from syncd import __version__
from syncd.clock import Clock
from syncd.cloud import http
from syncd.cloud.capabilities import ServerCapabilities
from syncd.cloud.credentials import Credentials
from syncd.cloud.host_policy import is_loopback
from syncd.cloud.validation import BODY_MAX, parse_json
from syncd.core.jobs import error_mapping, retry_policy
from syncd.core.jobs.error_mapping import to_error
from syncd.core.jobs.retry_policy import Budget
from syncd.core.transfer.pace import AdaptivePace, announced_limit
from syncd.errors import JobError, Permanent
from syncd.types import Call, Kind

T = TypeVar("T")

CONNECT_S = 10.0
ANSWER_S = 30.0
COMPLETE_S = 600.0
"""Assembling a large object may take minutes before the first byte of an answer."""

THROTTLED_WAIT_S = 1.0
"""The pause after a throttled call without Retry-After if the pace had grown."""

_RECORD_CALLS = frozenset({Call.GET_MODEL, Call.UPDATE_MODEL, Call.DELETE_MODEL})

BeforeSending = Callable[[], Awaitable[None]]
"""Commits the intent of a call; awaited immediately before each try is sent."""

HttpClient = httpx.AsyncClient


def build_client(*, ca_bundle: str | None = None, proxy: str | None = None) -> HttpClient:
    """Build the HTTP client; for the arguments and errors see ``http.client_arguments``."""
    return httpx.AsyncClient(
        **http.client_arguments(ca_bundle=ca_bundle, proxy=proxy),
        limits=httpx.Limits(keepalive_expiry=http.KEEPALIVE_S),
    )


class NoRecord(Permanent):
    """A 404 that is about the record, not about the route."""


class RateLimiter:
    """Makes calls wait for their turn, and for the end of a pause that the server asked for."""

    def __init__(self, pace: AdaptivePace, clock: Clock) -> None:
        self._pace = pace
        self._clock = clock
        self._paused_until_s = 0.0

    async def wait(self) -> None:
        """Wait until one more call may be sent; a turn is booked before the wait, so callers queue."""
        while True:
            while (pause_s := self.pause_left_s()) > 0:
                await self._clock.sleep(pause_s)
            wait_s = self._pace.book(self._clock.boottime_s())
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            if self.pause_left_s() <= 0:
                return  # otherwise book again, so that not all callers send at the end of the pause

    def pause(self, seconds: float) -> None:
        """Send no call at all for some time, because the server asked for that."""
        until_s = self._clock.boottime_s() + seconds
        self._paused_until_s = max(self._paused_until_s, until_s)

    def pause_left_s(self) -> float:
        """Seconds left of the pause; 0 or less if there is none."""
        return self._paused_until_s - self._clock.boottime_s()


class _Trace:
    """The httpcore trace events of one request; sets the socket options of a new connection."""

    def __init__(self) -> None:
        self.events: set[str] = set()

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.events.add(event)
        if event == "connection.connect_tcp.complete":
            http.enable_tcp_keepalive(info["return_value"])


class Transport:
    """
    Sends requests and repeats them as the retry policy says.

    Args:
        team_id: Sent with a session that names no team; a device key belongs to one team.
        jitter: Draws from [0, 1].
        calls_per_s: The pace of calls at first; a server on this machine has none until it throttles.
        calls_per_s_max: The largest pace.
        learned_pace: The pace that an earlier run found, if any.
        on_request: Called after each request with the status of its answer, None if none arrived.
        on_repeat: Called before a request is sent again.
        on_pace: Called with the pace for the next run when it has changed by half.
    """

    def __init__(
        self,
        base_url: str,
        client: HttpClient,
        *,
        team_id: str | None = None,
        clock: Clock,
        jitter: Callable[[], float],
        calls_per_s: float = 10.0,
        calls_per_s_max: float = 100.0,
        learned_pace: float | None = None,
        capabilities: ServerCapabilities | None = None,
        on_request: Callable[[Call, int | None], None] = lambda call, status: None,
        on_repeat: Callable[[Call], None] = lambda call: None,
        on_pace: Callable[[float], None] = lambda calls_per_s: None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self.host = urlsplit(base_url).hostname or ""
        self._client = client
        self._team_id = team_id
        self._clock = clock
        self._jitter = jitter
        self._budget = Budget()
        start, most = calls_per_s, calls_per_s_max
        if is_loopback(self.host):
            start = most = math.inf
        self.pace = AdaptivePace(start, most, learned_pace)
        self._rate = RateLimiter(self.pace, clock)
        self.capabilities = capabilities or ServerCapabilities()
        self._on_request = on_request
        self._on_repeat = on_repeat
        self._on_pace = on_pace
        self._noted_pace = self.pace.level
        self.clock_skew_s: float | None = None
        """Seconds that this machine's clock is ahead of the server's, by the latest ``Date`` header."""

    async def send(
        self,
        call: Call,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: Callable[[bytes], T],
        credential: Credentials | None,
        intend: BeforeSending | None = None,
    ) -> T:
        """
        Send until *read* accepts the answer, or until repeating does not help.

        Args:
            credential: None: *body* itself identifies the user or device.
            intend: Commits the intent of the call. It runs after every wait and before every try,
                because nothing may take effect at the server before its intent is committed.

        Raises:
            JobError: Its ``kind`` is the row of the retry table.
        """
        self.capabilities.require(call)
        tries, renewed = 0, credential is None
        while True:
            if credential is not None:
                await credential.ready()
            token = None if credential is None else credential.token
            self._require_no_long_pause(call)
            await self._rate.wait()
            if intend is not None:
                await intend()
            request = self._request(call, method, path, body, token, credential)
            sent_s = self._clock.boottime_s()
            try:
                answer = await self._once(call, request, read)
            except JobError as error:
                failure = error
            else:
                now_s = self._clock.boottime_s()
                self.pace.answered(now_s, call, now_s - sent_s)
                self._note_pace()
                self.capabilities.note_answered(call)
                if tries == 0:
                    self._budget.worked()
                return answer
            if failure.kind is Kind.API_THROTTLED:
                grown = self._slow_down(failure)
                if grown and not failure.unclear:
                    self._on_repeat(call)
                    continue
            tries += 1
            self._learn_routes(call, method, failure)
            renews = retry_policy.row_of(failure.kind, call).renews
            if credential is not None and not renewed and renews:
                renewed = await credential.reread(token)
                if renewed:
                    continue
            await self._pause_or_raise(call, tries, failure)

    async def _pause_or_raise(self, call: Call, tries: int, failure: JobError) -> None:
        wait_s = retry_policy.request_wait_s(
            retry_policy.Failure(failure, call, tries), self._jitter()
        )
        if wait_s is None or not self._budget.spend(timeout=failure.timed_out):
            raise failure
        self._on_repeat(call)
        if failure.kind is Kind.API_THROTTLED:
            self._rate.pause(wait_s)
        await self._clock.sleep(wait_s)

    def _slow_down(self, failure: JobError) -> bool:
        """Pause after a throttled call. True if the pace had grown: then the call need only be slower."""
        grown = self.pace.throttled(self._clock.boottime_s())
        self._rate.pause(failure.retry_after_s or (THROTTLED_WAIT_S if grown else 0.0))
        return grown

    def _note_pace(self) -> None:
        level = self.pace.level
        if math.isfinite(level) and not level / 1.5 < self._noted_pace < level * 1.5:
            self._noted_pace = level
            self._on_pace(level)

    def _learn_routes(self, call: Call, method: str, failure: JobError) -> None:
        # PUT is the first guess for an update; only the second guess settles it.
        then = retry_policy.row_of(failure.kind, call).then
        if then is retry_policy.Next.SWITCH_OFF and method != "PUT":
            self.capabilities.note_missing(call, str(failure))

    def _require_no_long_pause(self, call: Call) -> None:
        """Raise ``Throttled`` if the server asked for a pause that is too long to wait here."""
        left_s = self._rate.pause_left_s()
        if left_s > retry_policy.row_of(Kind.API_THROTTLED, call).request.cap_s:
            message = f"{call}: {self.host} asked for a pause"
            raise to_error(Kind.API_THROTTLED, message, call=call, retry_after_s=left_s)

    def _request(
        self,
        call: Call,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        token: str | None,
        credential: Credentials | None,
    ) -> httpx.Request:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"syncd/{__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        if credential is not None:
            headers["Authorization"] = f"Bearer {token}"
            team_id = credential.team_id or self._team_id
            if team_id is not None and credential.is_session:
                headers["X-Team-ID"] = team_id
        timeout = httpx.Timeout(_answer_s(call), connect=CONNECT_S, write=ANSWER_S)
        return httpx.Request(
            method,
            self._base_url + path,
            headers=headers,
            content=None if body is None else json.dumps(body, separators=(",", ":")).encode(),
            extensions={
                "timeout": timeout.as_dict(),
                "trace": _Trace(),
                "credential_kind": "session" if credential is None else credential.kind,
                "secrets": [token] if token is not None else [*(body or {}).values()],
            },
        )

    async def _once(self, call: Call, request: httpx.Request, read: Callable[[bytes], T]) -> T:
        # httpx bounds each wait for bytes, not their sum: an answer must not trickle in forever.
        total_s = CONNECT_S + ANSWER_S + _answer_s(call)
        try:
            async with asyncio.timeout(total_s):
                response = await self._client.send(request, stream=True)
                try:
                    content = await _content(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            self._on_request(call, None)
            message = f"{call}: no complete answer from {self.host} within {total_s:.0f} s"
            raise to_error(Kind.NETWORK, message, call=call, unclear=True) from None
        except httpx.HTTPError as error:
            self._on_request(call, None)
            events = request.extensions["trace"].events
            raise http.failure(
                call, error, host=self.host, events=events, now_ms=self._clock.now_ms()
            ) from None
        self._on_request(call, response.status_code)
        if (date := retry_policy.date_of(response.headers.get("Date"))) is not None:
            self.clock_skew_s = self._clock.now_ms() / 1000 - date.timestamp()
        self._obey(response.headers)
        refusal = self._refusal(call, response, content)
        if refusal is not None:
            raise refusal
        try:
            if content is None:
                raise to_error(Kind.INVALID_ANSWER, "it is compressed or larger than 1 MiB")
            return read(content)
        except JobError as error:
            message = f"{call}: HTTP {response.status_code} from {self.host}: {error}"
            raise to_error(error.kind, message, call=call, unclear=True) from None

    def _obey(self, headers: httpx.Headers) -> None:
        """Obey the headers that announce how many more calls the server accepts."""
        limit = announced_limit(headers, self._clock.now_ms() / 1000)
        if limit is None:
            return
        remaining, reset_s = limit[0], min(limit[1], retry_policy.RETRY_AFTER_MAX_S)
        self.pace.announced(self._clock.boottime_s(), remaining, reset_s)
        if remaining == 0:
            self._rate.pause(reset_s)

    def _refusal(
        self, call: Call, response: httpx.Response, content: bytes | None
    ) -> JobError | None:
        status, headers, body = response.status_code, response.headers, content or b""
        retry_after_s = retry_policy.retry_after(headers.get("Retry-After"), headers.get("Date"))
        kind = error_mapping.classify(
            call,
            status,
            s3_code=error_mapping.s3_code(body) if call is Call.COMPLETE else None,
            credential=response.request.extensions["credential_kind"],
            route_answered=self.capabilities.has_answered(call),
            retry_after_s=retry_after_s,
            html=error_mapping.looks_like_html(headers.get("Content-Type"), body),
        )
        if kind is None:
            return None
        text = _error_text(body, response.request.extensions["secrets"])
        message = f"{call}: HTTP {status} from {self.host}: {text}"
        if status == 404 and kind is Kind.OTHER_CLIENT_ERROR and call in _RECORD_CALLS:
            return NoRecord(message, kind=kind)
        return to_error(
            kind,
            message,
            call=call,
            retry_after_s=retry_after_s,
            unclear=error_mapping.leaves_doubt(status),
        )


def _answer_s(call: Call) -> float:
    return COMPLETE_S if call is Call.COMPLETE else ANSWER_S


def _error_text(body: bytes, secrets: Sequence[str]) -> str:
    """The server's ``error_message``, or else the beginning of its answer, without *secrets*."""
    try:
        text = parse_json(body).get("error_message")
    except JobError:
        text = None
    # Secrets are removed before the text is shortened: the cut could split one.
    whole = text if isinstance(text, str) else body.decode("utf-8", "replace")
    return error_mapping.server_message(whole, secrets=secrets)


async def _content(response: httpx.Response) -> bytes | None:
    """The body as it was sent; None if it is compressed or larger than 1 MiB."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return None
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > BODY_MAX:
            return None
    return bytes(content)
