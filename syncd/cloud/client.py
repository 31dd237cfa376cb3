"""
The cloud's API: one method a call, the token, the pace, and repeats of single requests.

Every answer passes ``core.responses`` (what does the status mean?) and ``core.answers`` (can it be
used?), and ``core.retry`` says whether the same request goes again. Wider scopes are the worker's.
Register, complete and initiate are not sent again while an earlier one may have taken effect: they
raise at once, ``unclear``, and the worker looks first.

No message carries the token or a URL's query; a redirect is never followed, so the token stays here.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from syncd import __version__
from syncd.clock import Clock
from syncd.cloud import http, validation
from syncd.cloud.validation import HostPolicy, parse_json
from syncd.core.jobs import error_mapping, retry_policy
from syncd.core.jobs.error_mapping import CredentialKind, to_error
from syncd.core.jobs.retry_budget import Budget
from syncd.errors import JobError, Permanent
from syncd.types import Call, Grant, Kind, Multipart, Pairing, Profile, Record, Target, Tokens

T = TypeVar("T")

CONNECT_S = 10.0
ANSWER_S = 30.0
COMPLETE_S = 600.0
"""Assembling a large object may take minutes before the first byte of an answer."""

PER_PAGE = 100
PAGES_MAX = 1000
LISTINGS_MAX = 3
"""How often a listing that changes while it is read is read from its beginning."""

BURST_S = 1.0
"""A pause saves up at most this many seconds' worth of calls."""

SLOW_CALLS_PER_S = 2.0
SLOW_FOR_S = 3600.0

DISABLED = {"model_status": "disabled"}
"""The change that takes a record out of force."""

ACTIVE = {"model_status": "active"}
"""The one that puts it in force again."""

NO_SUCH_CALL = frozenset({Kind.ROUTE_UNKNOWN, Kind.REQUEST_REFUSED, Kind.NOT_ALLOWED})
"""What says that this server does not let us change or delete a record."""

UNLISTED = frozenset(
    {Kind.ROUTE_UNKNOWN, Kind.NOT_ALLOWED, Kind.REQUEST_REFUSED, Kind.OTHER_CLIENT_ERROR}
)
"""What says that this server does not list its models."""

_NEEDED_FOR_MULTIPART = frozenset({Call.INITIATE, Call.SIGN_PART, Call.COMPLETE})


BeforeSending = Callable[[], Awaitable[None]]
"""Commits the intent of a call; awaited immediately before each try of it leaves."""

Client = httpx.AsyncClient
"""For whoever has to name what ``build_client`` makes."""


class Credential(Protocol):
    """What a request needs of the token; ``syncd.cloud.credentials`` tells what each member promises."""

    @property
    def token(self) -> str: ...
    @property
    def kind(self) -> CredentialKind: ...
    @property
    def is_session(self) -> bool: ...
    @property
    def team_id(self) -> str | None: ...
    async def ready(self) -> None: ...
    async def reread(self, refused: str | None) -> bool: ...


def build_client(*, ca_bundle: str | None = None, proxy: str | None = None) -> httpx.AsyncClient:
    """
    The HTTP client for the API: no redirects, no cookies kept between requests, HTTP/1.1.

    Args:
        ca_bundle: A PEM file trusted beside the system's certificates.
        proxy: A proxy's URL; None: what the environment's ``HTTPS_PROXY`` and ``NO_PROXY`` say.

    Raises:
        ConfigError: The bundle or the proxy cannot be used.
    """
    return httpx.AsyncClient(
        **http.client_arguments(ca_bundle=ca_bundle, proxy=proxy),
        limits=httpx.Limits(keepalive_expiry=http.KEEPALIVE_S),
    )


@dataclass(frozen=True, slots=True)
class MultipartPaths:
    """Where the multipart calls live, below the base URL; all but the first are guesses."""

    initiate: str = "/uploads/multipart/initiate"
    sign_part: str = "/uploads/multipart/presign"
    complete: str = "/uploads/multipart/complete"
    abort: str = "/uploads/multipart/abort"


class Pace:
    """
    At most so many calls a second, and fewer for an hour after a throttle.

    Args:
        calls_per_s: None for no limit.
    """

    def __init__(self, calls_per_s: float | None, clock: Clock) -> None:
        self._calls_per_s = calls_per_s
        self._clock = clock
        self._booked_until_s = 0.0
        self._slow_until_s = 0.0
        self._quiet_until_s = 0.0

    async def turn(self) -> None:
        """Wait for this call's turn; turns are booked before the wait, so callers queue up."""
        while (quiet_s := self.quiet_s()) > 0:
            await self._clock.sleep(quiet_s)
        if self._calls_per_s is None:
            return
        now_s = self._clock.boottime_s()
        slow = now_s < self._slow_until_s
        rate = min(self._calls_per_s, SLOW_CALLS_PER_S) if slow else self._calls_per_s
        self._booked_until_s = max(self._booked_until_s, now_s - BURST_S) + 1 / rate
        if self._booked_until_s > now_s:
            await self._clock.sleep(self._booked_until_s - now_s)

    def slow_down(self) -> None:
        """The server asked for fewer calls."""
        self._slow_until_s = self._clock.boottime_s() + SLOW_FOR_S

    def keep_quiet(self, seconds: float) -> None:
        """The server asked for a pause: no call at all meanwhile, whatever it is for."""
        until_s = self._clock.boottime_s() + seconds
        self._quiet_until_s = max(self._quiet_until_s, until_s)

    def quiet_s(self) -> float:
        """Seconds left of the pause that the server asked for; 0 or less: none."""
        return self._quiet_until_s - self._clock.boottime_s()


_RECORD_CALLS = frozenset({Call.GET_MODEL, Call.UPDATE_MODEL, Call.DELETE_MODEL})


class _NoRecord(Permanent):
    """A 404 that speaks of the record, not of the route."""


class _Trace:
    """What httpcore did for one request, by the names of its trace events."""

    def __init__(self) -> None:
        self.events: set[str] = set()

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.events.add(event)
        if event == "connection.connect_tcp.complete":
            http.enable_tcp_keepalive(info["return_value"])


class CloudClient:
    """
    The calls that syncd makes.

    Args:
        base_url: Ends in ``/api/v1``.
        team_id: Sent with a session token that names none; a device key carries its team.
        jitter: Draws from [0, 1].
        hosts: Which hosts presigned URLs may name.
        calls_per_s: The pace; none is kept with a server on this machine.
        answered: Calls that have answered 2xx on this server in the past; ``on_answered`` reports
            a new one.
        switched_off: Calls this server is known not to have, and why; ``on_switched_off`` reports
            a new one.
        on_request: Called after each request with the status of its answer, None if none came;
            ``on_repeat`` before the same one is sent again.

    Every method raises a ``JobError`` whose kind is the row of the retry table.
    """

    def __init__(
        self,
        *,
        base_url: str,
        client: httpx.AsyncClient,
        credentials: Credential,
        team_id: str | None,
        clock: Clock,
        jitter: Callable[[], float],
        hosts: HostPolicy,
        multipart: MultipartPaths = MultipartPaths(),
        calls_per_s: float = 10.0,
        answered: Collection[Call] = (),
        on_answered: Callable[[Call], None] = lambda call: None,
        switched_off: Mapping[Call, str] | None = None,
        on_switched_off: Callable[[Call, str], None] = lambda call, reason: None,
        on_request: Callable[[Call, int | None], None] = lambda call, status: None,
        on_repeat: Callable[[Call], None] = lambda call: None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._host = urlsplit(base_url).hostname or ""
        self._client = client
        self._credentials = credentials
        self._team_id = team_id
        self._clock = clock
        self._jitter = jitter
        self._hosts = hosts
        self._multipart = multipart
        self._budget = Budget()
        self._pace = Pace(None if hosts.loopback else calls_per_s, clock)
        self._answered = set(answered)
        self._on_answered = on_answered
        self._off = dict(switched_off or {})
        self._on_switched_off = on_switched_off
        self._on_request = on_request
        self._on_repeat = on_repeat
        self._update_method = "PUT"
        self.skew_s: float | None = None
        """Seconds that this machine's clock is ahead of the server's, by the last answer's Date."""

    @property
    def multipart_available(self) -> bool:
        """Not known to be missing on this server."""
        return not _NEEDED_FOR_MULTIPART & self._off.keys()

    # -- signing in and out ----------------------------------------------------------------------

    async def start_pairing(self) -> Pairing:
        """Begin a device pairing; nobody is signed in for it."""
        return await self._send(
            Call.PAIR_START,
            "POST",
            "/desktop/pair/start",
            read=lambda body: validation.pairing_of(parse_json(body)),
            signed=False,
        )

    async def poll_pairing(self, device_code: str) -> str | None:
        """
        The device key, handed over once; None while the user has not confirmed.

        Not repeated while unclear: the answer that was lost may have been the one with the key. A
        ``Permanent`` error says that the pairing is over: expired, or collected.
        """
        return await self._send(
            Call.PAIR_POLL,
            "POST",
            "/desktop/pair/poll",
            {"device_code": device_code},
            read=lambda body: validation.device_key_of(parse_json(body)),
            signed=False,
        )

    async def login(self, email: str, password: str) -> Tokens:
        """A session of the user; every reason to refuse one is the same ``SESSION_REFUSED``."""
        return await self._send(
            Call.LOGIN,
            "POST",
            "/auth/login",
            {"email_address": email, "user_password": password},
            read=_reads_tokens,
            signed=False,
        )

    async def refresh(self, refresh_token: str) -> Tokens:
        """The next tokens; *refresh_token* is spent. Not repeated while unclear."""
        return await self._send(
            Call.REFRESH,
            "POST",
            "/auth/refresh",
            {"refresh_token": refresh_token},
            read=_reads_tokens,
            signed=False,
        )

    async def revoke(self) -> None:
        """Make the device key that signs this call invalid, and its companion."""
        await self._send(Call.REVOKE, "POST", "/auth/device/revoke", read=_reads_nothing)

    # -- calls -----------------------------------------------------------------------------------

    async def me(self) -> Profile:
        """Who stands behind the credential."""
        return await self._send(
            Call.ME, "GET", "/users/me", read=lambda body: validation.profile_of(parse_json(body))
        )

    async def presign(self, target: Target, size: int) -> Grant:
        """Reserve a storage key for *size* bytes; the grant carries it and a URL for one PUT."""
        body = {
            "file_name": target.file_name,
            "file_size": size,
            "model_type": target.model_type,
            "model_path": target.model_path,
        }
        read = self._reads_grant(size, keyed=True)
        return await self._send(Call.PRESIGN, "POST", "/models/presign", body, read=read)

    async def register(
        self,
        target: Target,
        *,
        storage_key: str,
        size: int,
        sha256: str,
        intend: BeforeSending | None = None,
    ) -> str:
        """Make the catalog record of a stored object; its id. Not repeated while unclear."""
        body = {
            "display_name": target.display_name,
            "model_type": target.model_type,
            "storage_key": storage_key,
            "file_size": size,
            "file_hash": f"sha256:{sha256}",
            "model_path": target.model_path,
        }
        return await self._send(
            Call.REGISTER, "POST", "/models", body, read=_reads_id, intend=intend
        )

    async def models(self) -> AsyncIterator[Record]:
        """
        All records of the team, page by page, each once; members may be missing.

        A record that is deleted while pages are read moves another one to a page that was read
        before. So the listing is read again if its total changed, at most ``LISTINGS_MAX`` times;
        then a total that only grew is accepted, since a new record hides no other.

        A listing that ends before its own ``total_count`` is a ``BAD_ANSWER``: whoever looks for a
        record in it must not conclude from half of it that there is none.
        """
        seen: set[str] = set()
        totals: list[int] = []
        for _ in range(LISTINGS_MAX):
            totals.clear()
            async for page in self._pages():
                totals.append(page.total)
                for record in page.records:
                    if record.id not in seen:
                        seen.add(record.id)
                        yield record
            if len(set(totals)) <= 1:
                return
        if totals != sorted(totals):
            message = f"list_models: the list of {self._host} changed while it was read"
            raise to_error(Kind.INVALID_ANSWER, message)

    async def find(
        self, *, storage_key: str | None = None, model_path: str | None = None
    ) -> list[Record]:
        """The records with this key and this path (None: any), read whole where a list is short."""
        wanted = {"storage_key": storage_key, "model_path": model_path}
        asked = {name: value for name, value in wanted.items() if value is not None}
        found = []
        async for listed in self.models():
            known = [getattr(listed, name) for name in asked]
            if any(
                each not in (None, value) for each, value in zip(known, asked.values(), strict=True)
            ):
                continue
            record = await self.get_model(listed.id) if None in known else listed
            if record is not None and all(getattr(record, name) == asked[name] for name in asked):
                found.append(record)
        return found

    async def get_model(self, record_id: str) -> Record | None:
        """One record; None if it is not there, or not any more."""
        try:
            return await self._send(
                Call.GET_MODEL,
                "GET",
                _record_path(record_id),
                read=lambda body: validation.record_of(parse_json(body)),
            )
        except _NoRecord:
            return None

    async def update_model(
        self, record_id: str, changes: Mapping[str, str], *, intend: BeforeSending | None = None
    ) -> bool:
        """
        Change some members of a record; False if there is no such record. Not repeated while unclear.

        The method is a guess: PUT, and where the server has no such route PATCH, once.
        """
        try:
            await self._update(record_id, changes, intend)
        except _NoRecord:
            return False
        return True

    async def delete_model(self, record_id: str, *, intend: BeforeSending | None = None) -> bool:
        """Delete a record; False if there is no such record. Not repeated while unclear."""
        path = _record_path(record_id)
        try:
            await self._send(Call.DELETE_MODEL, "DELETE", path, read=_reads_nothing, intend=intend)
        except _NoRecord:
            return False
        return True

    async def agents(self) -> int:
        """How many agents of the team are connected."""
        return await self._send(
            Call.AGENTS,
            "GET",
            "/agents?current_page=1&per_page=1",
            read=lambda body: validation.total_of(parse_json(body)),
        )

    async def initiate(self, storage_key: str, size: int) -> Multipart:
        """Open a multipart upload of *size* bytes. Not repeated while unclear."""
        return await self._send(
            Call.INITIATE,
            "POST",
            self._multipart.initiate,
            {"storage_key": storage_key, "file_size": size},
            read=lambda body: validation.multipart_of(
                parse_json(body), size=size, storage_key=storage_key
            ),
        )

    async def sign_part(self, upload: Multipart, number: int, size: int) -> Grant:
        """A URL for part *number* (from 1) of *size* bytes; ask shortly before it is used."""
        return await self._send(
            Call.SIGN_PART,
            "POST",
            self._multipart.sign_part,
            {**_upload_members(upload), "part_number": number},
            read=self._reads_grant(size, keyed=False),
        )

    async def complete(
        self,
        upload: Multipart,
        parts: Sequence[tuple[int, str]],
        *,
        again: bool = False,
        intend: BeforeSending | None = None,
    ) -> None:
        """
        Assemble the parts, given as (number, etag). Not repeated while unclear.

        Args:
            again: An earlier one may have taken effect, so a 404 speaks of the upload and not of
                the route, whose good answer may be the one that was lost.
        """
        if again:
            self._answered.add(Call.COMPLETE)
        listed = [{"part_number": number, "etag": etag} for number, etag in sorted(parts)]
        body = {**_upload_members(upload), "parts": listed}
        path, read = self._multipart.complete, _reads_no_error
        await self._send(Call.COMPLETE, "POST", path, body, read=read, intend=intend)

    async def abort(self, upload: Multipart) -> None:
        """Drop an unfinished upload; one that is gone already is as good."""
        path, body = self._multipart.abort, _upload_members(upload)
        try:
            await self._send(Call.ABORT, "POST", path, body, read=_reads_nothing)
        except JobError as error:
            if error.kind is not Kind.UPLOAD_GONE:
                raise

    # -- parts of calls --------------------------------------------------------------------------

    def _reads_grant(self, size: int, *, keyed: bool) -> Callable[[bytes], Grant]:
        def read(body: bytes) -> Grant:
            now_ms = self._clock.now_ms()
            answer = parse_json(body)
            grant = validation.grant_of(
                answer, size=size, policy=self._hosts, now_ms=now_ms, keyed=keyed
            )
            http.url_of(grant.url)
            return grant

        return read

    async def _pages(self) -> AsyncIterator[validation.Page]:
        seen: set[str] = set()
        for number in range(1, PAGES_MAX + 1):
            page = await self._page(number)
            yield page
            known = len(seen)
            seen |= {record.id for record in page.records}
            if len(seen) >= page.total:
                return
            if len(seen) == known:
                break
        raise to_error(Kind.INVALID_ANSWER, f"list_models: {self._host} ended its list too early")

    async def _page(self, number: int) -> validation.Page:
        path = f"/models?current_page={number}&per_page={PER_PAGE}"
        return await self._send(
            Call.LIST_MODELS, "GET", path, read=lambda body: validation.page_of(parse_json(body))
        )

    async def _update(
        self, record_id: str, changes: Mapping[str, str], intend: BeforeSending | None
    ) -> None:
        async def send() -> None:
            await self._send(
                Call.UPDATE_MODEL,
                self._update_method,
                _record_path(record_id),
                dict(changes),
                read=_reads_nothing,
                intend=intend,
            )

        try:
            await send()
        except JobError as error:
            if error.kind is not Kind.ROUTE_UNKNOWN or self._update_method == "PATCH":
                raise
            self._update_method = "PATCH"
            await send()

    # -- one request, repeated as the retry table says -------------------------------------------

    async def _send(
        self,
        call: Call,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: Callable[[bytes], T],
        signed: bool = True,
        intend: BeforeSending | None = None,
    ) -> T:
        """
        Send until *read* can use the answer, or the table says that repeating does not help.

        Args:
            signed: With the credential in force; else *body* is what says who asks.
            intend: What a request may take effect after is the commit of its intent, so that comes
                after every wait and before every try.
        """
        self._check_switched_on(call)
        tries, renewed = 0, not signed
        while True:
            if signed:
                await self._credentials.ready()
            token = self._credentials.token if signed else None
            self._require_no_long_pause(call)
            await self._pace.turn()
            if intend is not None:
                await intend()
            try:
                answer = await self._once(
                    call, self._request(call, method, path, body, token), read
                )
            except JobError as error:
                failure = error
            else:
                self._note_answered(call)
                if tries == 0:
                    self._budget.worked()
                return answer
            tries += 1
            self._learn(call, method, failure)
            if retry_policy.row_of(failure.kind, call).renews and not renewed:
                renewed = await self._credentials.reread(token)
                if renewed:
                    continue
            await self._pause_or_raise(call, tries, failure)

    async def _pause_or_raise(self, call: Call, tries: int, failure: JobError) -> None:
        wait_s = retry_policy.request_wait_s(
            failure.kind,
            tries,
            call=call,
            jitter=self._jitter(),
            retry_after_s=failure.retry_after_s,
            unclear=failure.unclear,
        )
        if wait_s is None or not self._budget.spend(timeout=failure.timed_out):
            raise failure
        self._on_repeat(call)
        if failure.kind is Kind.API_THROTTLED:
            self._pace.keep_quiet(wait_s)
        await self._clock.sleep(wait_s)

    def _learn(self, call: Call, method: str, failure: JobError) -> None:
        row = retry_policy.row_of(failure.kind, call)
        if failure.kind is Kind.API_THROTTLED:
            self._pace.slow_down()
            self._pace.keep_quiet(failure.retry_after_s or 0.0)
        # PUT is the first guess for an update; only the second one settles it.
        if row.then is retry_policy.Next.SWITCH_OFF and method != "PUT" and call not in self._off:
            self._off[call] = str(failure)
            self._on_switched_off(call, str(failure))

    def _check_switched_on(self, call: Call) -> None:
        together = _NEEDED_FOR_MULTIPART if call in _NEEDED_FOR_MULTIPART else {call}
        for each in self._off.keys() & together:
            raise to_error(
                Kind.ROUTE_UNKNOWN,
                f"{call}: not available on this server: {self._off[each]}",
                call=call,
            )

    def _require_no_long_pause(self, call: Call) -> None:
        """
        Require that no pause is left that is longer than a request waits.

        Raises:
            Throttled: The server asked an earlier call for such a pause.
        """
        left_s = self._pace.quiet_s()
        if left_s > retry_policy.row_of(Kind.API_THROTTLED, call).request.cap_s:
            message = f"{call}: {self._host} asked for a pause"
            raise to_error(Kind.API_THROTTLED, message, call=call, retry_after_s=left_s)

    def _note_answered(self, call: Call) -> None:
        if call not in self._answered:
            self._answered.add(call)
            self._on_answered(call)

    # -- one request, once -----------------------------------------------------------------------

    def _request(
        self, call: Call, method: str, path: str, body: Mapping[str, Any] | None, token: str | None
    ) -> httpx.Request:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"syncd/{__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        team_id = self._credentials.team_id or self._team_id
        if team_id is not None and token is not None and self._credentials.is_session:
            headers["X-Team-ID"] = team_id
        read_s = COMPLETE_S if call is Call.COMPLETE else ANSWER_S
        timeout = httpx.Timeout(read_s, connect=CONNECT_S, write=ANSWER_S)
        return httpx.Request(
            method,
            self._base_url + path,
            headers=headers,
            content=None if body is None else json.dumps(body, separators=(",", ":")).encode(),
            extensions={
                "timeout": timeout.as_dict(),
                "trace": _Trace(),
                "secrets": [token] if token is not None else [*(body or {}).values()],
            },
        )

    async def _once(self, call: Call, request: httpx.Request, read: Callable[[bytes], T]) -> T:
        # httpx bounds each wait for bytes, not their sum: an answer must not drip in for ever.
        whole_s = CONNECT_S + ANSWER_S + (COMPLETE_S if call is Call.COMPLETE else ANSWER_S)
        try:
            async with asyncio.timeout(whole_s):
                response = await self._client.send(request, stream=True)
                try:
                    content = await _content(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            self._on_request(call, None)
            message = f"{call}: no whole answer from {self._host} within {whole_s:.0f} s"
            raise to_error(Kind.NETWORK, message, call=call, unclear=True) from None
        except httpx.HTTPError as error:
            self._on_request(call, None)
            events = request.extensions["trace"].events
            raise http.failure(
                call, error, host=self._host, events=events, now_ms=self._clock.now_ms()
            ) from None
        self._on_request(call, response.status_code)
        return self._use(call, response, content, read)

    def _use(
        self,
        call: Call,
        response: httpx.Response,
        content: bytes | None,
        read: Callable[[bytes], T],
    ) -> T:
        if (date := retry_policy.date_of(response.headers.get("Date"))) is not None:
            self.skew_s = self._clock.now_ms() / 1000 - date.timestamp()
        refusal = self._refusal(call, response, content)
        if refusal is not None:
            raise refusal
        try:
            if content is None:
                raise to_error(
                    Kind.INVALID_ANSWER, "an answer that is compressed or larger than 1 MiB"
                )
            return read(content)
        except JobError as error:
            message = f"{call}: HTTP {response.status_code} from {self._host}: {error}"
            raise to_error(error.kind, message, call=call, unclear=True) from None

    def _refusal(
        self, call: Call, response: httpx.Response, content: bytes | None
    ) -> JobError | None:
        status, headers, body = response.status_code, response.headers, content or b""
        retry_after_s = retry_policy.retry_after(headers.get("Retry-After"), headers.get("Date"))
        signed = "Authorization" in response.request.headers
        kind = error_mapping.classify(
            call,
            status,
            s3_code=error_mapping.s3_code(body) if call is Call.COMPLETE else None,
            credential=self._credentials.kind if signed else "session",
            route_answered=call in self._answered,
            retry_after_s=retry_after_s,
            html=error_mapping.looks_like_html(headers.get("Content-Type"), body),
        )
        if kind is None:
            return None
        told = _said(body, response.request.extensions["secrets"])
        message = f"{call}: HTTP {status} from {self._host}: {told}"
        if status == 404 and kind is Kind.OTHER_CLIENT_ERROR and call in _RECORD_CALLS:
            return _NoRecord(message, kind=kind)
        return to_error(
            kind,
            message,
            call=call,
            retry_after_s=retry_after_s,
            unclear=error_mapping.leaves_doubt(status),
        )


def _said(body: bytes, secrets: Sequence[str]) -> str:
    """The server's ``error_message``, or else the beginning of what it sent; no *secrets*."""
    try:
        text = parse_json(body).get("error_message")
    except JobError:
        text = None
    # Not cut before the secrets are looked for: the cut could fall into one.
    whole = text if isinstance(text, str) else body.decode("utf-8", "replace")
    return error_mapping.said(whole, secrets=secrets)


async def _content(response: httpx.Response) -> bytes | None:
    """The body as it was sent; None if it is compressed or larger than 1 MiB."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return None
    content = bytearray()
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > validation.BODY_MAX:
            return None
    return bytes(content)


def _record_path(record_id: str) -> str:
    return f"/models/{quote(record_id, safe='')}"


def _upload_members(upload: Multipart) -> dict[str, Any]:
    return {"storage_key": upload.storage_key, "upload_id": upload.upload_id}


def _reads_tokens(body: bytes) -> Tokens:
    return validation.tokens_of(parse_json(body))


def _reads_id(body: bytes) -> str:
    return validation.id_of(parse_json(body))


def _reads_nothing(body: bytes) -> None:
    """Any 2xx will do."""


def _reads_no_error(body: bytes) -> None:
    """Empty or an object; S3, and what stands before it, may say 200 first and fail afterwards."""
    if body.strip() and "error_message" in parse_json(body):
        raise to_error(Kind.INVALID_ANSWER, "a success with an error inside")
