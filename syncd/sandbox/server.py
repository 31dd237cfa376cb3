"""
The whole stand-in cloud in one background thread: API on one port, object store on another.

::

    with Sandbox() as cloud:
        ...  # speak HTTP to cloud.base_url with cloud.device_key
        assert cloud.records()
"""

import asyncio
import hashlib
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.routing import Route
from starlette.types import ASGIApp

from syncd.sandbox.accounts import Accounts
from syncd.sandbox.backend import Grants, ObjectStore
from syncd.sandbox.cloud import PREFIX, Cloud, OpenedUpload, Stage
from syncd.sandbox.faults import Faults, Rule
from syncd.sandbox.front import Connections, Front
from syncd.sandbox.history import Entry, History
from syncd.sandbox.inspection import inspection_routes
from syncd.sandbox.objects import DiskObjects
from syncd.sandbox.s3 import RemoteObjects
from syncd.sandbox.sigv4 import Keys
from syncd.sandbox.switches import Switches

OWN_KEYS = Keys("SANDBOXACCESSKEY", "sandbox/secret/key")
OWN_BUCKET = "sandbox-models"
KEEP_ALIVE_S = 30
START_S = 10.0
STOP_S = 10.0
BACKLOG = 256


@dataclass(frozen=True, slots=True)
class S3Endpoint:
    """A real S3 server to put the objects into; *url* has no path, *ca* is trusted for it."""

    url: str
    bucket: str
    keys: Keys
    ca: str | None = None


@dataclass(slots=True)
class _Running:
    """What the server's thread hands back."""

    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class Sandbox:
    """
    A cloud on 127.0.0.1, as a context manager. Bytes are kept in files, all else in memory.

    Args:
        dir: Where the own store keeps bytes; None takes a temporary one and removes it.
        s3: Objects go there instead; PUTs then bypass the history and the faults.
        port, store_port: 0 takes a free one.
        seed: Of ids, keys, secrets and the faults' dice.
        listener: Called with each history entry, in the server's thread.
        digest_bodies: Hash each body received, for the history and the ETag; off, a PUT costs less.

    Raises:
        RuntimeError: At exit, if a handler of the sandbox itself failed.
    """

    HOST = "127.0.0.1"

    def __init__(
        self,
        dir: str | os.PathLike[str] | None = None,
        *,
        switches: Switches | None = None,
        faults: Iterable[Rule] = (),
        s3: S3Endpoint | None = None,
        port: int = 0,
        store_port: int = 0,
        seed: int = 0,
        listener: Callable[[Entry], None] | None = None,
        digest_bodies: bool = True,
    ) -> None:
        self.switches = switches or Switches()
        self.faults = Faults(faults, seed=seed)
        self.history = History(listener)
        self._dir = dir
        self._s3 = s3
        self._ports = (port, store_port)
        self._draw = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._digest_bodies = digest_bodies
        self._shift_s = 0.0
        self._crashes: list[Exception] = []
        self._connections = Connections()
        self._accounts = Accounts(self._draw, self.now, lambda: self.switches)
        self._session = self._accounts.new_session()
        self._closing = ExitStack()

    # Life

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()
        if self._crashes and error is None:
            raise RuntimeError("the sandbox itself failed") from self._crashes[0]

    def _start(self) -> None:
        api = self._listening(self._ports[0])
        self.base_url = f"http://{self.HOST}:{api.getsockname()[1]}{PREFIX}"
        apps: list[tuple[socket.socket, ASGIApp]] = []
        if self._s3 is None:
            sock = self._listening(self._ports[1])
            own = self._own_store(sock.getsockname()[1])
            self._store: ObjectStore = own
            apps.append((sock, self._fronted(own.app, own.routes)))
        else:
            self._store = self._remote_store(self._s3)
        self._closing.callback(self._store.close)
        self._cloud = Cloud(
            self._accounts, self._store, lambda: self.switches, self.now, self._draw
        )
        apps.append((api, self._api_app()))
        self._serve_in_thread(apps)

    def _listening(self, port: int) -> socket.socket:
        # asyncio switches Nagle's delay off only where the protocol is named
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._closing.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.HOST, port))
        return sock

    def _own_store(self, port: int) -> DiskObjects:
        folder = self._dir
        if folder is None:
            folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))
        endpoint = f"http://{self.HOST}:{port}/store"
        grants = Grants(endpoint, OWN_BUCKET, OWN_KEYS, self.now, lambda: self.switches)
        return DiskObjects(
            Path(folder) / "objects",
            grants,
            lambda: self.switches,
            self._draw,
            digest_bodies=self._digest_bodies,
        )

    def _remote_store(self, s3: S3Endpoint) -> RemoteObjects:
        return RemoteObjects(
            Grants(s3.url.rstrip("/"), s3.bucket, s3.keys, self.now, lambda: self.switches), s3.ca
        )

    def _api_app(self) -> ASGIApp:
        inspection = inspection_routes(
            self._cloud,
            self._accounts,
            self.history,
            self.faults,
            self._store.sizes,
            self.stored_sha256,
        )
        return self._fronted(self._cloud.app(inspection), [*self._cloud.routes, *inspection])

    def _fronted(self, app: ASGIApp, routes: list[Route]) -> ASGIApp:
        return Front(
            app,
            routes=routes,
            faults=self.faults,
            history=self.history,
            connections=self._connections,
            now=self.now,
            model_path_of=lambda key: self._cloud.model_path_of(key),  # the cloud comes later
            crashes=self._crashes,
        )

    def _serve_in_thread(self, apps: list[tuple[socket.socket, ASGIApp]]) -> None:
        started: list[_Running] = []
        ready = threading.Event()

        async def serve() -> None:
            running = _Running(asyncio.get_running_loop())
            servers = [await _served(sock, app, self._connections) for sock, app in apps]
            started.append(running)
            ready.set()
            await running.stop.wait()
            await _end(servers, self._connections)

        thread = threading.Thread(target=asyncio.run, args=(serve(),), name="sandbox", daemon=True)
        thread.start()
        if not ready.wait(START_S):
            raise RuntimeError("the sandbox did not start")

        def stop() -> None:
            started[0].loop.call_soon_threadsafe(started[0].stop.set)
            thread.join(STOP_S)

        self._closing.callback(stop)

    # What a test wants to know

    def now(self) -> float:
        """The cloud's clock, Unix seconds."""
        return time.time() + self._shift_s

    def skip(self, seconds: float) -> None:
        """Turn the cloud's clock on (or back): URLs and tokens expire without waiting."""
        self._shift_s += seconds

    @property
    def device_key(self) -> str:
        """A ``dk-`` key of the team."""
        return self._accounts.device_key

    @property
    def integration_key(self) -> str:
        """An ``sk-`` key, which no call here takes."""
        return self._accounts.integration_key

    @property
    def agent_key(self) -> str:
        """An ``ak-`` key, which no call here takes."""
        return self._accounts.agent_key

    @property
    def session_token(self) -> str:
        """A JWT of the user, valid for ``access_token_lifetime_s`` from the construction."""
        return self._session.access_token

    @property
    def refresh_token(self) -> str:
        """The refresh token that belongs to ``session_token``; good for one use."""
        return self._session.refresh_token

    @property
    def team_id(self) -> str:
        """The team of the device key; sessions name it in ``X-Team-ID``."""
        return self._accounts.team_id

    @property
    def foreign_team_id(self) -> str:
        """A team that the user is not in."""
        return self._accounts.foreign_team_id

    @property
    def email(self) -> str:
        """The user's sign-in name."""
        return self._accounts.email

    @property
    def password(self) -> str:
        """The user's password."""
        return self._accounts.password

    @property
    def teams(self) -> dict[str, str]:
        """The user's teams: id to name, that of the device key first."""
        return dict(self._accounts.teams)

    def revoke(self, key: str) -> None:
        """Make a device key unknown, as its user can on the Access page."""
        self._accounts.revoke(key)

    def records(self) -> list[dict[str, Any]]:
        """The catalog, oldest record first, as ``GET /models/{id}`` shows each."""
        return [asdict(record) for record in self._cloud.records()]

    def uploads(self) -> tuple[OpenedUpload, ...]:
        """All multipart uploads ever initiated."""
        return self._cloud.uploads()

    def open_uploads(self) -> tuple[OpenedUpload, ...]:
        """Multipart uploads neither completed nor aborted."""
        return tuple(u for u in self.uploads() if u.stage is Stage.OPEN)

    def objects(self) -> dict[str, int]:
        """Stored objects: storage_key to bytes."""
        return self._store.sizes()

    def stored_sha256(self, storage_key: str) -> str:
        """64 hex digits over the stored bytes, read back now."""
        digest = hashlib.sha256()
        for piece in self._store.read(storage_key):
            digest.update(piece)
        return digest.hexdigest()


async def _served(sock: socket.socket, app: ASGIApp, connections: Connections) -> uvicorn.Server:
    """
    A started uvicorn server, without its main loop.

    That loop would tick every 0.1 s, and stopping would wait for it.
    """
    config = uvicorn.Config(
        app,
        http=connections.protocol(),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[sock])
    return server


async def _end(servers: list[uvicorn.Server], connections: Connections) -> None:
    for server in servers:
        for listener in server.servers:
            listener.close()
    connections.drop_all()
    tasks = [task for server in servers for task in server.server_state.tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
