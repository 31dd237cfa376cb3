"""The environment of a run: files, certificates, the discarding server, the cloud, and syncd's settings."""

import os
import random
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.measure import Command
from bench.scenario import MIB
from syncd.sandbox.server import Sandbox
from syncd.sandbox.sigv4 import Keys
from syncd.sandbox.switches import Switches
from tests.s3 import S3Endpoint, S3Sandbox

BUCKET = "bench"
KEYS = Keys("bench", "bench", "us-east-1")
PARTS = 4
PART_MIB = 100
SYNCD = [sys.executable, "-c", "from syncd.cli.fast_path import entry; entry()"]
HEADER = 128
SYNCED = 64 * MIB


@dataclass(frozen=True, slots=True)
class Place:
    """The file, the endpoint with its certificate, and the cloud for syncd."""

    file: Path
    endpoint: str
    ca: Path
    cloud: Sandbox

    def received(self) -> int:
        """Return how many body bytes the endpoint has received."""
        trust = ssl.create_default_context(cafile=str(self.ca))
        with httpx.Client(verify=trust, trust_env=False) as client:
            return int(client.get(f"{self.endpoint}/-/received").headers["x-received"])


def write_model(path: Path, size: int) -> None:
    """Write a complete safetensors file of random bytes, without holes."""
    data = size - HEADER
    header = f'{{"w":{{"dtype":"U8","shape":[{data}],"data_offsets":[0,{data}]}}}}'.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write((HEADER - 8).to_bytes(8, "little") + header.ljust(HEADER - 8))
        noise = random.Random(size).randbytes(min(64 * MIB, data))  # noqa: S311
        while (left := size - file.tell()) > 0:
            file.write(noise[: min(left, len(noise))])
        file.flush()
        if size > SYNCED:  # dirty pages cannot be dropped from the cache
            os.fsync(file.fileno())


def make_certificate(folder: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """Create a self-signed certificate for *address*, and its key."""
    certificate, key = folder / "ca.pem", folder / "ca.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", f"/CN={address}", "-addext", f"subjectAltName=IP:{address}",
         "-addext", "basicConstraints=critical,CA:TRUE",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@contextmanager
def sink(certificate: Path, key: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """Run the discarding endpoint in its own process."""
    command = [sys.executable, "-m", "bench.sink", address, str(certificate), str(key)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"https://{address}:{int(process.stdout.readline())}"
        finally:
            process.kill()


def endpoint_of(url: str, ca: Path) -> S3Endpoint:
    """Return the endpoint as the cloud's object store."""
    return S3Endpoint(url, BUCKET, KEYS, str(ca))


def switches() -> Switches:
    """Parts of ``PART_MIB``, long sessions, and no listing, so that no run adopts records."""
    return Switches(part_size=PART_MIB * MIB, access_token_lifetime_s=86_400, listing_off=404)


@contextmanager
def with_file(folder: Path, size: int) -> Iterator[Place]:
    """Create a file, a discarding endpoint over TLS, and a cloud in front of it."""
    file = folder / "models" / "checkpoints" / "bench.safetensors"
    write_model(file, size)
    certificate, key = make_certificate(folder)
    with (
        sink(certificate, key) as url,
        S3Sandbox(endpoint_of(url, certificate), switches()) as cloud,
    ):
        yield Place(file, url, certificate, cloud)


def syncd(
    models: Path, state: Path, *arguments: str, cloud: Sandbox | None = None, **settings: object
) -> Command:
    """
    Return ``syncd`` with *arguments* for a tree, with a session of *cloud*.

    Without a cloud, the API is unreachable, so syncd only watches, scans and queues. *settings* are
    named as in the environment (``UPLOAD__PARTS``).
    """
    base_url = "http://127.0.0.1:9/api/v1" if cloud is None else cloud.base_url
    env = {
        "SYNCD_MODELS_DIR": str(models),
        "SYNCD_STATE_DIR": str(state),
        "SYNCD_API__BASE_URL": base_url,
        "SYNCD_API__TOKEN": "dk-none" if cloud is None else cloud.session_token,
        "SYNCD_SETTLE__QUIET_S": "0",
        "SYNCD_SETTLE__QUIET_CLOSED_S": "0",
        "SYNCD_LOG__FORMAT": "json",
        **{f"SYNCD_{name}": str(value) for name, value in settings.items()},
    }
    if cloud is not None:
        env["SYNCD_API__TEAM_ID"] = cloud.team_id
    return Command([*SYNCD, *arguments], env)
