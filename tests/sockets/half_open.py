"""
One run of the real service with a cable between it and the cloud, which is pulled on the way.

To be started as a process in a network namespace of its own: ``half_open CASE FOLDER``. The cloud
listens in a second namespace, and a veth pair is the cable; when its far end goes down, packets
are lost without a notice. Prints what happened as JSON.
"""

import asyncio
import contextlib
import ctypes
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
from pydantic import SecretStr

from syncd.clock import SystemClock
from syncd.cloud import http, object_store
from syncd.cloud import transport as api
from syncd.config.credential import CredentialSource
from syncd.config.settings import Settings
from syncd.daemon.components import Factories
from syncd.daemon.service import Service
from syncd.monitoring import log
from syncd.monitoring.progress import Meter
from syncd.sandbox.history import Entry
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call
from tests.weights import MIB, sha256_of, write_safetensors

NEAR, FAR = "10.77.0.1", "10.77.0.2"
PART = 5 * MIB
SIZES = {"loras/a.safetensors": 3000, "loras/b.safetensors": 2 * PART}
AHEAD_S = 3600.0
"""The clock starts ahead of the kernel's, so that every file is old enough."""

CONNECT_S = 1.0
SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500),  # milliseconds
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""The program's own, a tenth or so as long; HTTP's time-outs are left as they are."""

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNET = 0x40000000


class FarCloud(Sandbox):
    """A cloud on the far end of the cable."""

    HOST = FAR


class Cable:
    """A veth pair between this namespace and another one."""

    def __init__(self) -> None:
        self._here = os.open("/proc/self/ns/net", os.O_RDONLY)
        holder = subprocess.Popen(["sleep", "60"])
        _must(LIBC.unshare(NEWNET))
        ip("link add far type veth peer name near netns", str(holder.pid))
        holder.kill()
        holder.wait()
        ip("addr add", f"{FAR}/24", "dev far")
        ip("link set far up")
        self._there = os.open("/proc/self/ns/net", os.O_RDONLY)
        _must(LIBC.setns(self._here, NEWNET))
        ip("addr add", f"{NEAR}/24", "dev near")
        ip("link set near up")

    @contextlib.contextmanager
    def there(self) -> Iterator[None]:
        """This thread, and those begun in it, are on the far side."""
        _must(LIBC.setns(self._there, NEWNET))
        try:
            yield
        finally:
            _must(LIBC.setns(self._here, NEWNET))

    def pull(self) -> None:
        """Drop all packets from now on without a notice."""
        with self.there():
            ip("link set far down")

    def mend(self) -> None:
        """It gets through again."""
        with self.there():
            ip("link set far up")


def ip(*words: str) -> None:
    """``ip`` in the namespace of this thread."""
    subprocess.run(["ip", *" ".join(words).split()], check=True)


def _must(failed: int) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


LATEST_S = 45.0
"""A dead connection is given up after 30 s; nothing of it arrives later than that."""


class AheadClock(SystemClock):
    """The machine's clock, set forward."""

    def now_ms(self) -> int:
        return super().now_ms() + int(AHEAD_S * 1000)


@dataclass(slots=True)
class Accident:
    """The cable is pulled once, and mended as soon as a request has failed for it."""

    cable: Cable
    pulled_s: float | None = None
    noticed_s: float | None = None
    errors: list[str] = field(default_factory=list)

    def happen(self) -> None:
        """Pull it."""
        if self.pulled_s is None:
            self.cable.pull()
            self.pulled_s = time.monotonic()

    def notice(self, error: httpx.HTTPError) -> None:
        """A request failed."""
        self.errors.append(type(error).__name__)
        if self.pulled_s is not None and self.noticed_s is None:
            self.noticed_s = time.monotonic()
            self.cable.mend()


class PullingMeter(Meter):
    """Pulls the cable after a number of bytes of a body."""

    def __init__(self, accident: Accident, after: int) -> None:
        super().__init__()
        self._accident, self._left = accident, after

    def add_sent(self, job_id: int, count: int) -> None:
        super().add_sent(job_id, count)
        self._left -= count
        if self._left <= 0:
            self._accident.happen()


class Log(io.StringIO):
    """The program's log; the cable is pulled at an event of a file."""

    def __init__(self, accident: Accident, event: str) -> None:
        super().__init__()
        self._accident, self._event = accident, f'"event": "{event}"'

    def write(self, text: str) -> int:
        if self._event in text and "loras/a.safetensors" in text:
            self._accident.happen()
        return super().write(text)


CALLS = {"presign": Call.PRESIGN, "complete": Call.COMPLETE, "register": Call.REGISTER}
EVENTS = {"connect": "file.queued", "idle": "job.ended"}


def _api(accident: Accident) -> api.HttpClient:
    client = api.build_client()
    plain = client.send

    async def send(request: httpx.Request, **how: Any) -> httpx.Response:
        try:
            return await plain(request, **how)
        except httpx.HTTPError as error:
            accident.notice(error)
            raise

    client.send = send  # type: ignore[method-assign]
    return client


def _store(accident: Accident) -> object_store.HttpClient:
    client = object_store.build_client()
    plain = client.send

    def send(request: httpx.Request, **how: Any) -> httpx.Response:
        try:
            return plain(request, **how)
        except httpx.HTTPError as error:
            accident.notice(error)
            raise

    client.send = send  # type: ignore[method-assign]
    return client


def _settings(folder: Path, cloud: Sandbox, store: str) -> Settings:
    sections: dict[str, Any] = {
        "models_dir": folder / "models",
        "state_dir": folder / "state",
        "api": {
            "base_url": cloud.base_url,
            "single_put_limit": PART,
            "team_id": cloud.team_id,
        },
        "network": {"allow_http": True, "storage_hosts": [store]},
        "settle": {"quiet_s": 0, "quiet_closed_s": 0, "quiet_network_s": 0},
        "upload": {"files": 1, "parts": 1, "parts_max": 1},
    }
    return Settings(**sections)


def run(case: str, folder: Path) -> dict[str, Any]:
    """The case, and what was seen of it."""
    for rel_path, size in SIZES.items():
        write_safetensors(folder / "models" / rel_path, size)
    accident = Accident(Cable())
    said = Log(accident, EVENTS.get(case, "none"))
    log.configure(format="json", level="info", stream=said)
    switches = Switches(part_size=PART, second_complete=404, access_token_lifetime_s=10**8)

    def listen(entry: Entry) -> None:
        if entry.call == CALLS.get(case):
            accident.happen()

    with accident.cable.there():
        cloud = FarCloud(folder / "cloud", switches=switches, listener=listen)
        cloud.__enter__()
    cloud.skip(AHEAD_S)
    meter = PullingMeter(accident, PART // 2) if case == "part" else Meter()
    service = Service(
        _settings(folder, cloud, FAR),
        CredentialSource(SecretStr(cloud.session_token), "the test", (), cloud.team_id),
        meter=meter,
        once=True,
        clock=AheadClock(),
        latest_s=LATEST_S,
        jitter=lambda: 0.0,
        factories=Factories(api=lambda _: _api(accident), objects=lambda _: _store(accident)),
    )
    started_s = time.monotonic()
    code = asyncio.run(service.run())
    seconds = time.monotonic() - started_s
    local = {f"models/{path}": sha256_of(folder / "models" / path) for path in SIZES}
    stored = {r["model_path"]: cloud.stored_sha256(r["storage_key"]) for r in cloud.records()}
    assert stored == local, (code, accident, *cloud.history.entries(), said.getvalue())
    cloud.__exit__(None, None, None)
    assert accident.pulled_s is not None, "the cable was not pulled"
    assert accident.noticed_s is not None, "not detected"
    return {
        "code": code,
        "errors": accident.errors,
        "noticed_s": round(accident.noticed_s - accident.pulled_s, 2),
        "seconds": round(seconds, 2),
        "calls": [entry.call for entry in cloud.history.entries()],
        "registered": sorted(record["model_path"] for record in cloud.records()),
    }


if __name__ == "__main__":
    with (
        mock.patch.object(http, "SOCKET_OPTIONS", SOCKET_OPTIONS),
        mock.patch.object(api, "CONNECT_S", CONNECT_S),
        mock.patch.object(
            object_store, "TIMEOUT", httpx.Timeout(connect=CONNECT_S, write=30, read=120, pool=None)
        ),
    ):
        print(json.dumps(run(sys.argv[1], Path(sys.argv[2]))))
