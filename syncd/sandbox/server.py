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
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.routing import Route
from starlette.types import ASGIApp

from syncd.sandbox.accounts import Accounts
from syncd.sandbox.cloud import PREFIX, Cloud, ObjectStore, OpenedUpload, Stage
from syncd.sandbox.faults import Faults, Rule
from syncd.sandbox.front import Connections, Front
from syncd.sandbox.history import Entry, History
from syncd.sandbox.objects import DiskObjects
from syncd.sandbox.sigv4 import Grants, Keys
from syncd.sandbox.switches import Switches

OWN_KEYS = Keys("SANDBOXACCESSKEY", "sandbox/secret/key")
OWN_BUCKET = "sandbox-models"
KEEP_ALIVE_S = 30
START_S = 10.0
STOP_S = 10.0
BACKLOG = 256


class Sandbox:
    """
    A cloud on 127.0.0.1, as a context manager. Bytes are kept in files, all else in memory.

    Args:
        dir: Where the own store keeps bytes; None takes a temporary one and removes it.
        port, store_port: 0 takes a free one.
        seed: Of ids, keys, secrets and the faults' dice.
        listener: Called with each history entry, in the server's thread.

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
        port: int = 0,
        store_port: int = 0,
        seed: int = 0,
        listener: Callable[[Entry], None] | None = None,
    ) -> None:
        self.switches = switches or Switches()
        self.faults = Faults(faults, seed=seed)
        self.history = History(listener)
        self._dir = dir
        self._ports = (port, store_port)
        self._draw = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._shift_s = 0.0
        self._crashes: list[Exception] = []
        self._connections = Connections()
        self._accounts = Accounts(self._draw, self.now, lambda: self.switches)
        session = self._accounts.new_session()
        self.session_token, self.refresh_token = session.access_token, session.refresh_token
        self.device_key = self._accounts.device_key
        self.team_id, self.foreign_team_id = self._accounts.team_id, self._accounts.foreign_team_id
        self.teams = self._accounts.teams
        self.email, self.password = self._accounts.email, self._accounts.password
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
        apps = self._open_store()
        self._cloud = Cloud(
            self._accounts, self._store, lambda: self.switches, self.now, self._draw
        )
        apps.append((api, self._fronted(self._cloud.app(), self._cloud.routes)))
        self._serve_in_thread(apps)

    def _open_store(self) -> list[tuple[socket.socket, ASGIApp]]:
        """Set the object store and return what has to be served for it."""
        sock = self._listening(self._ports[1])
        own = self._own_store(sock.getsockname()[1])
        self._store: ObjectStore = own
        return [(sock, self._fronted(own.app, own.routes))]

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
        grants = self._grants(f"http://{self.HOST}:{port}/store", OWN_BUCKET, OWN_KEYS)
        return DiskObjects(
            Path(folder) / "objects",
            grants,
            lambda: self.switches,
            self._draw,
        )

    def _grants(self, endpoint: str, bucket: str, keys: Keys) -> Grants:
        return Grants(endpoint, bucket, keys, self.now, lambda: self.switches)

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
        started: Future[Callable[[], object]] = Future()

        async def serve() -> None:
            servers = [await _served(sock, app, self._connections) for sock, app in apps]
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            started.set_result(lambda: loop.call_soon_threadsafe(ended.set))
            await ended.wait()
            await _end(servers, self._connections)

        thread = threading.Thread(target=asyncio.run, args=(serve(),), name="sandbox", daemon=True)
        thread.start()
        end = started.result(START_S)

        def stop() -> None:
            end()
            thread.join(STOP_S)

        self._closing.callback(stop)

    # What a test wants to know

    def now(self) -> float:
        """The cloud's clock, Unix seconds."""
        return time.time() + self._shift_s

    def skip(self, seconds: float) -> None:
        """Turn the cloud's clock on (or back): URLs and tokens expire without waiting."""
        self._shift_s += seconds

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
