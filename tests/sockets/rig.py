"""
The real service between real files and real sockets, and a proxy on either way out.

The service runs in this process with its own threads and HTTP clients; only its waits cost nothing.
Sizes are a thousandth of the real ones, so that an accident at any byte of a run is one of some
thousands, and time-outs are a tenth of a second.
"""

import asyncio
import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest import mock

import httpx
import structlog
from pydantic import SecretStr

from syncd.cloud import object_store
from syncd.cloud import transport as api
from syncd.config.credential import CredentialSource
from syncd.config.settings import Settings
from syncd.daemon.components import Factories
from syncd.daemon.service import Service
from syncd.disk_full import DiskFullRetry
from syncd.executors import Executors
from syncd.monitoring import log
from syncd.monitoring.progress import Meter
from syncd.sandbox.history import Entry
from syncd.sandbox.objects import DiskObjects
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call
from tests import scaling
from tests.oracle import Content, Evidence
from tests.sockets.skipping import SkippingClock
from tests.sockets.wire import Accident, Wire
from tests.weights import sha256_of

P = ParamSpec("P")
T = TypeVar("T")

LEAF_SIZE, PIECE_SIZE, PART_SIZE = 4096, 1500, 5120
SINGLE_PUT_LIMIT = 10_000
ANSWER_S = 0.15
"""Silence after which a request is given up."""

HUNG_S = 60.0
RUNS = 6
"""Runs without accidents that may pass until everything is done, an hour apart."""

SWITCHES = Switches(
    part_size=PART_SIZE,
    min_part_size=PART_SIZE,
    access_token_lifetime_s=10**8,
    register_repeats=True,
)


class Watched(Sandbox):
    """A stand-in cloud behind two proxies, one before the API and one before the store."""

    def __init__(
        self,
        folder: Path,
        wires: tuple[Wire, Wire],
        accidents: Mapping[str, list[Accident]],
        switches: Switches,
    ) -> None:
        self.on_entry: Callable[[Entry], None] = lambda entry: None
        self._wires, self._accidents = wires, accidents
        super().__init__(folder, switches=switches, listener=lambda entry: self.on_entry(entry))

    def _start(self) -> None:
        super()._start()
        direct = int(self.base_url.split(":")[2].split("/")[0])
        self._wires[0].point_at(direct, self._accidents.get("api", []))
        self.base_url = self.base_url.replace(str(direct), str(self._wires[0].port))

    def _own_store(self, port: int) -> DiskObjects:
        self._wires[1].point_at(port, self._accidents.get("store", []))
        return super()._own_store(self._wires[1].port)

    def as_seen(self) -> list[Entry]:
        """The history; behind accidents, the client may not have seen the ids and etags in it."""
        doubtful = (Call.INITIATE, Call.PUT_PART) if any(self._accidents.values()) else ()
        return [
            replace(entry, lost=True) if entry.call in doubtful else entry
            for entry in self.history.entries()
        ]


class _Counted(Executors):
    """The real threads; while one works the clock does not jump."""

    def __init__(self, clock: SkippingClock, disk_full: DiskFullRetry) -> None:
        super().__init__(files=2, slots=3, disk_full=disk_full)
        self._clock = clock

    async def db(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._clock.busy():
            return await super().db(function, *args, **kwargs)

    async def hash(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._clock.busy():
            return await super().hash(function, *args, **kwargs)

    async def send(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._clock.busy():
            return await super().send(function, *args, **kwargs)

    async def scan(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._clock.busy():
            return await super().scan(function, *args, **kwargs)

    def close(self) -> None:
        """Wait for all of them: the next run must not meet a thread of this one."""
        super().close()
        for pool in (self._hash, self._send, self._scan):
            pool.shutdown(wait=True)


def _api_client(clock: SkippingClock) -> api.HttpClient:
    """The API's real client; the clock does not jump during a request."""
    client = api.build_client()
    plain = client.send

    async def send(request: httpx.Request, **how: Any) -> httpx.Response:
        with contextlib.ExitStack() as under_way:
            under_way.enter_context(clock.busy())
            response = await plain(request, **how)
            end, closing = under_way.pop_all(), response.aclose

            async def aclose() -> None:
                end.close()
                await closing()

            response.aclose = aclose  # type: ignore[method-assign]
            return response

    client.send = send  # type: ignore[method-assign]
    return client


@dataclass(slots=True)
class Rig:
    """One cloud, one state directory, one tree."""

    folder: Path
    models: Path
    cloud: Watched
    wires: tuple[Wire, Wire]
    session: bool
    jitter: Callable[[], float]
    said: io.StringIO
    meter: Callable[[], Meter] = Meter
    upload: Mapping[str, Any] = field(default_factory=dict)
    versions: dict[str, set[str]] = field(default_factory=dict)
    started: list[int] = field(default_factory=list)
    clock: SkippingClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = SkippingClock(self.cloud.skip)
        self.note_versions()

    def run(self) -> int:
        """``syncd --once``; its exit code."""
        return asyncio.run(self._run())

    def calm(self) -> None:
        """No accidents any more."""
        for wire in self.wires:
            wire.accidents = []
        self.cloud.faults.clear()

    def settle(self) -> list[int]:
        """Run undisturbed until everything is done; the exit codes."""
        self.calm()
        codes = []
        for _ in range(RUNS):
            codes.append(self.run())
            if codes[-1] == 0:
                break
            self.clock.pass_by(3600)
        return codes

    def local(self) -> dict[str, str]:
        """What is on disk now: SHA-256 by model_path."""
        files = [path for path in self.models.rglob("*") if path.is_file()]
        return {f"models/{path.relative_to(self.models)}": sha256_of(path) for path in files}

    def note_versions(self) -> None:
        """What is on disk now is a whole version of each file."""
        for path, sha256 in self.local().items():
            self.versions.setdefault(path, set()).add(sha256)

    def evidence(self, *, still: Mapping[str, str] | None = None) -> Evidence:
        """What is left, for the oracle; the far side comes to rest first."""
        for wire in self.wires:
            wire.hang_up()
        versions: Mapping[str, Collection[str]] = self.versions
        cloud = self.cloud
        return Evidence(
            history=cloud.as_seen(),
            records=cloud.records(),
            objects={k: Content(n, cloud.stored_sha256(k)) for k, n in cloud.objects().items()},
            open_uploads=[each.upload_id for each in cloud.open_uploads()],
            versions=versions,
            still=self.local() if still is None else still,
            state_dir=self.folder / "state",
            log=self.said.getvalue(),
            secrets=[cloud.session_token, cloud.device_key],
            started=self.started,
        )

    async def _run(self) -> int:
        service = Service(
            self._settings(),
            CredentialSource(
                SecretStr(self.cloud.session_token if self.session else self.cloud.device_key),
                "the rig",
                (),
                self.cloud.team_id if self.session else None,
            ),
            meter=self.meter(),
            once=True,
            clock=self.clock,
            jitter=self.jitter,
            factories=Factories(
                lanes=lambda _, disk_full: _Counted(self.clock, disk_full),
                api=lambda _: _api_client(self.clock),
                objects=lambda _: object_store.build_client(),
            ),
        )
        self.started.append(self.clock.now_ms())
        try:
            return await asyncio.wait_for(service.run(), HUNG_S)
        finally:
            self.clock.stop()

    def _settings(self) -> Settings:
        still: dict[str, Any] = {"quiet_s": 0, "quiet_closed_s": 0, "quiet_network_s": 0}
        sections: dict[str, Any] = {
            "models_dir": self.models,
            "state_dir": self.folder / "state",
            "api": {
                "base_url": self.cloud.base_url,
                "single_put_limit": SINGLE_PUT_LIMIT,
                "team_id": self.cloud.team_id if self.session else None,
            },
            "settle": still,
            "upload": {"files": 2, "parts": 2, "parts_max": 3, **self.upload},
        }
        return Settings(**sections)


@contextlib.contextmanager
def rigged(
    models: Path,
    wires: tuple[Wire, Wire],
    *,
    accidents: Mapping[str, list[Accident]] | None = None,
    jitter: Callable[[], float] = lambda: 0.5,
    session: bool = True,
    switches: Switches = SWITCHES,
    meter: Callable[[], Meter] = Meter,
    upload: Mapping[str, Any] | None = None,
) -> Iterator[Rig]:
    """A rig over *models*, with more settings of *upload*; what it leaves is removed."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="syncd-sockets-", dir=memory))
    try:
        with (
            _scaled_down(),
            _logging() as said,
            Watched(folder / "cloud", wires, accidents or {}, switches) as cloud,
        ):
            yield Rig(folder, models, cloud, wires, session, jitter, said, meter, upload or {})
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _scaled_down() -> Iterator[None]:
    timeout = httpx.Timeout(connect=1.0, write=ANSWER_S, read=ANSWER_S, pool=None)
    with (
        scaling.scaled_down(leaf=LEAF_SIZE, piece=PIECE_SIZE, part=PART_SIZE),
        mock.patch.object(object_store, "TIMEOUT", timeout),
        mock.patch.object(api, "ANSWER_S", ANSWER_S),
        mock.patch.object(api, "COMPLETE_S", ANSWER_S),
    ):
        yield


@contextlib.contextmanager
def _logging() -> Iterator[io.StringIO]:
    said = io.StringIO()
    before, level = structlog.get_config(), logging.getLogger().level
    log.configure(format="json", level="info", stream=said)
    try:
        yield said
    finally:
        structlog.configure(**before)
        logging.getLogger().setLevel(level)
