"""The upload tools: syncd, its upload code alone, and other tools."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import Command
from bench.place import BUCKET, KEYS, PART_MIB, PARTS, Place, syncd
from bench.scenario import report_progress
from syncd.sandbox.sigv4 import Keys

AWS = Path("build/aws/bin/aws")
"""It has its own virtual environment, because its dependencies conflict with syncd's."""

UPLOAD_ONLY = "syncd, upload only"


@dataclass(frozen=True, slots=True)
class Sender:
    """A program that uploads the file. ``tool`` is the program that must be installed."""

    name: str
    tool: str | None = None

    @property
    def is_installed(self) -> bool:
        return self.tool is None or find(self.tool) is not None

    @contextmanager
    def ready(self, place: Place) -> Iterator[Command]:
        """Return its command with a clean state."""
        with TemporaryDirectory(prefix="syncd-bench-") as folder:
            yield _COMMANDS[self.name](place, Path(folder))


def find(tool: str) -> str | None:
    """Find the tool next to this Python, in the AWS environment, or on the path."""
    for path in (Path(sys.executable).with_name(tool), AWS.with_name(tool)):
        if path.exists():
            return str(path)
    return shutil.which(tool)


def path_of(tool: str) -> str:
    """Return the path of a tool that is known to be installed."""
    path = find(tool)
    assert path is not None, "checked before"
    return path


def chosen(peers: tuple[str, ...]) -> list[Sender]:
    """Return syncd, its upload code alone, and the installed tools in *peers*."""
    wanted = {"syncd", UPLOAD_ONLY, *peers}
    senders = [sender for sender in SENDERS if sender.name in wanted and sender.is_installed]
    for name in sorted(wanted - {sender.name for sender in senders}):
        report_progress(f"{name} is not installed and is skipped")
    return senders


def _syncd(place: Place, folder: Path) -> Command:
    return syncd(
        place.file.parents[1],
        folder / "state",
        "--once",
        cloud=place.cloud,
        NETWORK__CA_BUNDLE=place.ca,
        UPLOAD__PARTS=PARTS,
        UPLOAD__PARTS_MAX=PARTS,
    )


def _script(module: str, place: Place) -> Command:
    ends = [str(place.file), f"{place.endpoint}/{BUCKET}/{module}", str(place.ca)]
    return Command([sys.executable, "-m", module, *ends, str(PARTS), str(PART_MIB)])


def _upload_only(place: Place, folder: Path) -> Command:
    return _script("bench.upload_only", place)


def _plain(place: Place, folder: Path) -> Command:
    return _script("bench.plain", place)


def _curl(place: Place, folder: Path) -> Command:
    target = f"{place.endpoint}/{BUCKET}/curl"
    options = ["-sS", "--fail", "--cacert", str(place.ca), "-o", os.devnull]
    return Command([path_of("curl"), *options, "-T", str(place.file), target])


def rclone(endpoint: str, ca: Path | None, *arguments: str, keys: Keys = KEYS) -> Command:
    """Return an ``rclone`` command for a generic S3 server."""
    trust = [] if ca is None else ["--ca-cert", str(ca)]
    options = [
        "--config", os.devnull, *trust, "--s3-provider=Other", "--s3-env-auth",
        f"--s3-endpoint={endpoint}", f"--s3-upload-concurrency={PARTS}",
        f"--s3-chunk-size={PART_MIB}M", "--s3-disable-checksum", "--s3-no-check-bucket",
    ]  # fmt: skip
    return Command([path_of("rclone"), *arguments, *options], _env(keys))


def _env(keys: Keys = KEYS) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": keys.access,
        "AWS_SECRET_ACCESS_KEY": keys.secret,
        "AWS_REGION": keys.region,
    }


def _rclone(place: Place, folder: Path) -> Command:
    return rclone(place.endpoint, place.ca, "copyto", str(place.file), f":s3:{BUCKET}/rclone")


def _s5cmd(place: Place, folder: Path) -> Command:
    options = [f"--concurrency={PARTS}", f"--part-size={PART_MIB}"]
    return Command(
        [path_of("s5cmd"), "--endpoint-url", place.endpoint, "cp", *options, str(place.file),
         f"s3://{BUCKET}/s5cmd"],
        {**_env(), "AWS_CA_BUNDLE": str(place.ca)},
    )  # fmt: skip


def _aws(place: Place, folder: Path) -> Command:
    (folder / "config").write_text(
        f"[default]\ns3 =\n  max_concurrent_requests = {PARTS}\n"
        f"  multipart_chunksize = {PART_MIB}MB\n"
    )
    env = {
        **_env(),
        "AWS_CA_BUNDLE": str(place.ca),
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # the other tools send none either
    }
    options = ["--endpoint-url", place.endpoint, "--only-show-errors"]
    command = [path_of("aws"), "s3", "cp", *options, str(place.file), f"s3://{BUCKET}/aws"]
    return Command(command, env)


_COMMANDS = {
    "syncd": _syncd,
    UPLOAD_ONLY: _upload_only,
    "curl": _curl,
    "rclone": _rclone,
    "s5cmd": _s5cmd,
    "aws": _aws,
    "httpx": _plain,
}

SENDERS = (
    Sender("syncd"),
    Sender(UPLOAD_ONLY),
    Sender("curl", "curl"),
    Sender("rclone", "rclone"),
    Sender("s5cmd", "s5cmd"),
    Sender("aws", "aws"),
    Sender("httpx"),
)
