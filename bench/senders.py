"""What is measured: syncd, its door without anything around it, and its peers."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from syncd.sandbox.server import Sandbox

BUCKET = "bench"
PARTS = 4
PART_MIB = 100
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything is: the file, the endpoint, who vouches for it, and the cloud for syncd."""

    file: Path
    endpoint: str
    ca: Path
    cloud: Sandbox


@dataclass(frozen=True, slots=True)
class Command:
    """A process to be timed."""

    arguments: list[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sender:
    """
    A program that sends the file.

    ``hashes``: it also reads the file for a digest. ``tool`` is what has to be installed.
    """

    name: str
    tool: str | None = None
    hashes: bool = False

    @property
    def there(self) -> bool:
        return self.tool is None or find(self.tool) is not None

    @contextmanager
    def ready(self, bench: Bench) -> Iterator[Command]:
        """A fresh beginning: nothing of an earlier run is known to it."""
        with TemporaryDirectory(prefix="syncd-bench-") as folder:
            yield _COMMANDS[self.name](bench, Path(folder))


def find(tool: str) -> str | None:
    """The tool beside this Python, else on the path."""
    beside = Path(sys.executable).with_name(tool)
    return str(beside) if beside.exists() else shutil.which(tool)


def _tool(name: str) -> str:
    path = find(name)
    assert path is not None, "asked before"
    return path


def _syncd(bench: Bench, folder: Path) -> Command:
    env = {
        "SYNCD_MODELS_DIR": str(bench.file.parents[1]),
        "SYNCD_STATE_DIR": str(folder / "state"),
        "SYNCD_API__BASE_URL": bench.cloud.base_url,
        "SYNCD_API__TOKEN": bench.cloud.session_token,
        "SYNCD_API__TEAM_ID": bench.cloud.team_id,
        "SYNCD_NETWORK__CA_BUNDLE": str(bench.ca),
        "SYNCD_SETTLE__QUIET_S": "0",
        "SYNCD_UPLOAD__PARTS": str(PARTS),
        "SYNCD_UPLOAD__PARTS_MAX": str(PARTS),
    }
    return Command([sys.executable, "-c", "from syncd.cli import entry; entry()", "--once"], env)


def _door(bench: Bench, folder: Path) -> Command:
    ends = [str(bench.file), f"{bench.endpoint}/{BUCKET}/door", str(bench.ca)]
    return Command([sys.executable, "-m", "bench.door", *ends, str(PARTS), str(PART_MIB)])


def _curl(bench: Bench, folder: Path) -> Command:
    target = f"{bench.endpoint}/{BUCKET}/curl"
    options = ["-sS", "--fail", "--cacert", str(bench.ca), "-o", os.devnull]
    return Command([_tool("curl"), *options, "-T", str(bench.file), target])


def _rclone(bench: Bench, folder: Path) -> Command:
    options = [
        "--config", os.devnull, "--ca-cert", str(bench.ca), "--s3-provider=Other", "--s3-env-auth",
        f"--s3-endpoint={bench.endpoint}", f"--s3-upload-concurrency={PARTS}",
        f"--s3-chunk-size={PART_MIB}M", "--s3-disable-checksum", "--s3-no-check-bucket",
    ]  # fmt: skip
    return Command(
        [_tool("rclone"), "copyto", *options, str(bench.file), f":s3:{BUCKET}/rclone"], KEYS
    )


def _s5cmd(bench: Bench, folder: Path) -> Command:
    options = [f"--concurrency={PARTS}", f"--part-size={PART_MIB}"]
    return Command(
        [_tool("s5cmd"), "--endpoint-url", bench.endpoint, "cp", *options, str(bench.file),
         f"s3://{BUCKET}/s5cmd"],
        {**KEYS, "AWS_CA_BUNDLE": str(bench.ca)},
    )  # fmt: skip


def _aws(bench: Bench, folder: Path) -> Command:
    (folder / "config").write_text(
        f"[default]\ns3 =\n  max_concurrent_requests = {PARTS}\n"
        f"  multipart_chunksize = {PART_MIB}MB\n"
    )
    env = {**KEYS, "AWS_CA_BUNDLE": str(bench.ca), "AWS_CONFIG_FILE": str(folder / "config")}
    options = ["--endpoint-url", bench.endpoint, "--only-show-errors"]
    return Command([_tool("aws"), "s3", "cp", *options, str(bench.file), f"s3://{BUCKET}/aws"], env)


_COMMANDS = {
    "syncd": _syncd,
    "syncd's door": _door,
    "curl": _curl,
    "rclone": _rclone,
    "s5cmd": _s5cmd,
    "aws": _aws,
}

SENDERS = (
    Sender("syncd", hashes=True),
    Sender("syncd's door"),
    Sender("curl", "curl"),
    Sender("rclone", "rclone"),
    Sender("s5cmd", "s5cmd"),
    Sender("aws", "aws"),
)
