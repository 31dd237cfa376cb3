"""SeaweedFS as a real S3 server, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from syncd.sandbox.sigv4 import Keys
from tests.ports import free_ports
from tests.s3 import sign_headers

READY_S = 60.0
PORT_FLAGS = (
    "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Weed:
    """A running S3 server that verifies every signature."""

    url: str
    keys: Keys


@contextmanager
def weeding(folder: Path) -> Iterator[Weed]:
    """SeaweedFS with its files in *folder*, on ports of its own."""
    keys = Keys("integrationtests", "weed/secret/key")
    ports = dict(zip(PORT_FLAGS, free_ports(len(PORT_FLAGS)), strict=True))
    log = folder / "weed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(folder, keys, ports),
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{ports['s3.port']}"
        _wait_until_ready(Weed(url, keys), process, log)
        yield Weed(url, keys)
    finally:
        with suppress(ProcessLookupError):  # it ended by itself, and that was told
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for port in ports.values():  # it puts its sockets there whatever the flags say
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()


def _command(folder: Path, keys: Keys, ports: dict[str, int]) -> list[str]:
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": keys.access, "secretKey": keys.secret}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    return [
        str(Path(sys.executable).with_name("weed")),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.config={config}",
        *(f"-{flag}={port}" for flag, port in ports.items()),
        f"-filer.localSocket={folder}/filer.sock",
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
    ]


def _wait_until_ready(weed: Weed, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until an object can be written: the S3 port answers before the volumes are there."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _takes_objects(weed):
            return
        time.sleep(0.1)
    raise RuntimeError(f"weed is not ready:\n{log.read_text(errors='replace')[-3000:]}")


def _takes_objects(weed: Weed) -> bool:
    def put(path: str) -> bool:
        url = f"{weed.url}/{path}"
        headers = sign_headers(weed.keys, "PUT", url, at_s=time.time())
        return httpx.put(
            url, headers=headers, timeout=5, trust_env=False, verify=False
        ).status_code in (200, 409)

    try:
        return put("readiness") and put("readiness/object")
    except httpx.TransportError:
        return False
