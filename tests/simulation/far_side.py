"""The far side without sockets: the stand-in cloud's own code, and what carries requests to it."""

import asyncio
import contextvars
import hashlib
import random
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from starlette.types import ASGIApp, Message, Scope

from syncd.sandbox.accounts import Accounts
from syncd.sandbox.cloud import Cloud, OpenedUpload, Stage
from syncd.sandbox.faults import Faults
from syncd.sandbox.front import Connections, Front
from syncd.sandbox.history import History
from syncd.sandbox.objects import DiskObjects
from syncd.sandbox.sigv4 import Grants, Keys
from syncd.sandbox.switches import Switches
from tests.oracle import Content, Evidence
from tests.simulation.loop import VirtualLoop

if TYPE_CHECKING:
    from tests.simulation.life import Life

API_URL = "https://cloud.example.net/api/v1"
STORE_URL = "https://objects.example.net/store"
KEEP_ALIVE_S = 5.0
CONNECT = "connection.connect_tcp.started"


class Dropped(Exception):
    """The server broke the connection; ``reset`` is how."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class _Wires(Connections):
    """Nothing is connected: whoever carries the request hears that it was dropped."""

    async def drop(self, scope: Scope, *, reset: bool) -> None:
        raise Dropped(reset=reset)


class FarSide:
    """
    The API and the object store on one clock.

    Args:
        folder: Where stored bytes lie.
        now_s: Unix seconds.
    """

    def __init__(
        self, folder: Path, seed: str, now_s: Callable[[], float], switches: Switches
    ) -> None:
        draw = random.Random(f"{seed}:cloud")
        self.switches = switches
        self.faults = Faults(seed=draw.randrange(2**32))
        self.history = History()
        self.crashes: list[Exception] = []
        self.unreached: list[tuple[int, str]] = []
        self.signatures: set[bytes] = set()
        self.accounts = Accounts(draw, now_s, lambda: self.switches)
        self.session = self.accounts.new_session()
        keys = Keys("SIMULATIONKEY", "simulation/secret/key")
        grants = Grants(STORE_URL, "models", keys, now_s, lambda: self.switches)
        self.objects = DiskObjects(folder, grants, lambda: self.switches, draw)
        self.cloud = Cloud(self.accounts, self.objects, lambda: self.switches, now_s, draw)

        def fronted(app: ASGIApp, routes: list[Any]) -> ASGIApp:
            return Front(
                app,
                routes=routes,
                faults=self.faults,
                history=self.history,
                connections=_Wires(),
                now=now_s,
                model_path_of=self.cloud.model_path_of,
                crashes=self.crashes,
            )

        self._now_s = now_s
        self.api_app = fronted(self.cloud.app(), self.cloud.routes)
        self.store_app = fronted(self.objects.app, self.objects.routes)

    def miss(self, host: str) -> None:
        """A call to *host* did not arrive."""
        self.unreached.append((int(self._now_s() * 1000), host))

    def evidence(self, *, lost: Collection[int], secrets: Sequence[str], **facts: Any) -> Evidence:
        """
        What the cloud recorded, for the oracle; *facts* are the members that it does not know.

        Args:
            lost: Numbers of calls whose answer the program never saw.
        """
        assert not self.crashes, f"the stand-in cloud failed: {self.crashes}"
        return Evidence(
            history=[
                replace(call, lost=True) if call.seq in lost else call
                for call in self.history.entries()
            ],
            records=[asdict(record) for record in self.cloud.records()],
            objects={
                key: Content(size, hashlib.sha256(b"".join(self.objects.read(key))).hexdigest())
                for key, size in self.objects.sizes().items()
            },
            open_uploads=[u.upload_id for u in self.cloud.uploads() if u.stage is Stage.OPEN],
            unreached=self.unreached,
            listing=self.switches.listing_off is None,
            secrets=[*secrets, *(each.decode() for each in sorted(self.signatures))],
            **facts,
        )

    def new_token(self) -> str:
        """The access token of another sign-in."""
        self.session = self.accounts.new_session()
        return self.session.access_token

    def forget(self, upload: OpenedUpload) -> None:
        """Drop an upload as if another client had aborted it."""
        _drive(self.objects.abort(upload.storage_key, upload.upload_id))
        self.cloud._uploads[upload.upload_id] = replace(upload, stage=Stage.ABORTED)


@dataclass(slots=True)
class Weather:
    """
    What happens on the way, drawn from the seed.

    Args:
        outages: ``(host, from, to)`` in seconds of the loop: no request gets through.
        slow: The chance that a request takes long.
        storm: Whether there is any; the oracle's six hours are calm.
    """

    draw: random.Random
    outages: list[tuple[str, float, float]] = field(default_factory=list)
    slow: float = 0.0
    storm: bool = True

    def latency_s(self) -> float:
        """Seconds that a request is under way, one direction."""
        if self.storm and self.slow and self.draw.random() < self.slow:
            return self.draw.uniform(1, 15)  # two and a read timeout stay below the API's 70 s
        return self.draw.uniform(0.001, 0.1)

    def failure(self, *, fresh: bool) -> tuple[float, httpx.TransportError]:
        """How an outage shows: seconds until the program learns, and what."""
        if not fresh:  # an open connection breaks, a new one is refused
            return 0.0, httpx.ReadError("Connection reset by peer")
        return self.draw.choice(
            [
                (0.01, httpx.ConnectError("Connection refused")),
                (0.1, httpx.ConnectError("Name or service not known")),
                (10.0, httpx.ConnectTimeout("timed out")),
            ]
        )

    def is_silent(self, request: httpx.Request) -> bool:
        """Does the store stop reading the body, so that the program's own timeout has to end it?"""
        return False

    def drip_s(self, request: httpx.Request) -> float:
        """Seconds between two bytes of the answer."""
        return 0.0

    def piece_s(self, request: httpx.Request) -> float:
        """Seconds that one piece of a body takes."""
        return 0.0

    def is_out(self, request: httpx.Request, now_s: float) -> bool:
        """Does *request* get nowhere?"""
        host = request.url.host
        return self.storm and any(
            name in host and start <= now_s < end for name, start, end in self.outages
        )


class Line:
    """The connections to one host: which requests meet one that was used before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._used_s = -KEEP_ALIVE_S

    def events(self) -> list[str]:
        """httpcore's trace events of a request that is sent now."""
        fresh = self._loop.time() - self._used_s >= KEEP_ALIVE_S
        self._used_s = self._loop.time()
        connect = [CONNECT] if fresh else []
        return [*connect, "http11.send_request_headers.started"]


@dataclass(slots=True)
class _Answer:
    """What came back so far."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.body += message.get("body", b"")

    def response(self, request: httpx.Request, drip_s: float = 0.0) -> httpx.Response:
        stream = _Whole(bytes(self.body), drip_s)
        return httpx.Response(self.status, headers=self.headers, stream=stream, request=request)


class _Whole(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is there, or comes byte by byte; unlike ``content=``, it leaves the headers alone."""

    def __init__(self, body: bytes, drip_s: float) -> None:
        self._body = body
        self._drip_s = drip_s

    def __iter__(self) -> Iterator[bytes]:
        yield self._body

    async def __aiter__(self) -> Any:
        if not self._drip_s:
            yield self._body
            return
        for byte in self._body:
            await asyncio.sleep(self._drip_s)
            yield bytes([byte])


def _scope(request: httpx.Request) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, 443),
        "client": ("192.0.2.1", 1),
        "root_path": "",
        "state": {},
    }


class ApiWire(httpx.AsyncBaseTransport):
    """
    Carries requests of one life to the API, whose work goes on when the caller has given up.

    Args:
        lost: Takes the numbers of calls whose answer the program never saw.
    """

    def __init__(self, far: FarSide, weather: Weather, life: "Life", lost: set[int]) -> None:
        self._far, self._weather, self._life, self._lost = far, weather, life, lost
        self._loop = asyncio.get_running_loop()
        self._line = Line(self._loop)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = b"".join([piece async for piece in request.stream])  # type: ignore[union-attr]
        self._life.step()
        trace = request.extensions["trace"]
        events = self._line.events()
        for event in events:
            await trace(event, {})
        if self._weather.is_out(request, self._loop.time()):
            self._far.miss("API")
            wait_s, error = self._weather.failure(fresh=CONNECT in events)
            await asyncio.sleep(wait_s)
            raise error
        await asyncio.sleep(self._weather.latency_s())
        scope, answer = _scope(request), _Answer()
        work = self._serve(scope, body, answer)
        served = self._loop.create_task(work, context=contextvars.Context())
        try:
            response = await self._answered(request, served, answer, trace)
            self._life.step()
            if self._weather.drip_s(request):  # the last byte may never be read
                self._lost.add(scope["state"]["draft"].entry.seq)
        except BaseException as error:
            # A program that cancels its own call knows that the outcome is open.
            if self._life.dead or not isinstance(error, asyncio.CancelledError):
                self._lost.add(scope["state"]["draft"].entry.seq)
            raise
        return response

    async def _serve(self, scope: Scope, body: bytes, answer: _Answer) -> None:
        await self._far.api_app(scope, _receiver(body), answer.take)

    async def _answered(
        self, request: httpx.Request, served: asyncio.Task[None], answer: _Answer, trace: Any
    ) -> httpx.Response:
        done, _ = await asyncio.wait({served}, timeout=request.extensions["timeout"]["read"])
        if not done:
            raise httpx.ReadTimeout("timed out")
        try:
            served.result()
        except Dropped as dropped:
            if answer.status:
                await trace("http11.receive_response_headers.complete", {})
            raise _broken(reset=dropped.reset) from None
        await asyncio.sleep(self._weather.latency_s())
        await trace("http11.receive_response_headers.complete", {})
        return answer.response(request, self._weather.drip_s(request))


def _broken(*, reset: bool) -> httpx.TransportError:
    if reset:
        return httpx.ReadError("Connection reset by peer")
    return httpx.RemoteProtocolError("Server disconnected without sending a response.")


def _receiver(body: bytes) -> Callable[[], Coroutine[Any, Any, Message]]:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


class StoreWire(httpx.BaseTransport):
    """
    Carries bodies of one life to the object store, in one go; ``took_s`` is how long that was.

    Args:
        lost: As ``ApiWire``.
    """

    BYTES_A_SECOND = 4096.0

    def __init__(self, far: FarSide, weather: Weather, life: "Life", lost: set[int]) -> None:
        self._far, self._weather, self._life, self._lost = far, weather, life, lost
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self._line = Line(self._loop)
        self._took_s = 0.0

    def took_s(self) -> float:
        """Seconds that the requests since the last question took."""
        took_s, self._took_s = self._took_s, 0.0
        return took_s

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        trace = request.extensions["trace"]
        self._far.signatures.update(re.findall(rb"Signature=(\w+)", request.url.query))
        events = self._line.events()
        for event in events:
            trace(event, {"host": request.url.host})
        if self._weather.is_out(request, self._loop.time()):
            self._far.miss("store")
            self._took_s, error = self._weather.failure(fresh=CONNECT in events)
            raise error
        scope, answer, source = _scope(request), _Answer(), _Source(request, self._dawdle)
        try:
            self._send(scope, answer, source)
        except BaseException:
            if (draft := scope["state"].get("draft")) is not None:
                self._lost.add(draft.entry.seq)
            raise
        finally:
            self._took_s += source.size / self.BYTES_A_SECOND + self._weather.latency_s()
        trace("http11.receive_response_headers.complete", {})
        return answer.response(request)

    def _dawdle(self, request: httpx.Request) -> None:
        if self._weather.is_silent(request):
            self._loop.skip(request.extensions["timeout"]["write"])
            raise httpx.WriteTimeout("timed out")
        if seconds := self._weather.piece_s(request):
            self._loop.skip(seconds)

    def _send(self, scope: Scope, answer: _Answer, source: "_Source") -> None:
        try:
            _drive(self._far.store_app(scope, source.receive, answer.take))
        except Dropped as dropped:
            source.require_good()
            if not dropped.reset and self._weather.draw.random() < 0.5:
                self._took_s += 120.0
                raise httpx.ReadTimeout("timed out") from None
            raise _broken(reset=dropped.reset) from None
        source.require_good()
        self._life.step()


class _Source:
    """The body as the server pulls it; what the program raises meanwhile is a cut to the server."""

    def __init__(self, request: httpx.Request, dawdle: Callable[[httpx.Request], None]) -> None:
        self._request = request
        self._dawdle = dawdle
        self._pieces = iter(request.stream)  # type: ignore[arg-type]
        self._failure: BaseException | None = None
        self.size = 0

    async def receive(self) -> Message:
        try:
            piece = bytes(next(self._pieces, b""))
            self._dawdle(self._request)
        except BaseException as error:
            self._failure = error
            return {"type": "http.disconnect"}
        self.size += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    def require_good(self) -> None:
        """Raise what the program raised while it handed out its body."""
        if self._failure is not None:
            raise self._failure


def _drive(work: Awaitable[None]) -> None:
    """Run a coroutine that never waits for anything but its turn."""
    turns = work.__await__()
    try:
        while True:
            assert next(turns) is None, "the store does not wait for anybody"
    except StopIteration:
        return
