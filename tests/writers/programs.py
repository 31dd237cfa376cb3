"""
The programs that put models into a tree, each told to stop in the middle for a while.

They do it in their own ways: where a server or a pipe feeds them, that stalls; those that limit
their rate are stopped by a signal half way; the others are held inside one of their own calls of
``write`` by strace.
"""

import os
import signal
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.writers.slow_server import COMMIT

SAFETENSORS, GGUF, PT = KINDS = ("safetensors", "gguf", "pt")
"""Formats whose end can be told, by the ending of the name."""

RATE_KIB: Final = 1024
"""KiB a second, for programs with a limit of their own."""


@dataclass(frozen=True, slots=True)
class Errand:
    """
    One file to bring from *source* to *target*, stalling for *stall_s* seconds on the way.

    *source* and the empty folder *scratch* are on another file system than *target*; *url* is a
    server of *source*, which stands in the folder *repository* there.
    """

    source: Path
    target: Path
    scratch: Path
    url: str
    repository: str
    stall_s: float

    @property
    def address(self) -> str:
        """Of the file on the server."""
        of = f"{self.repository}/{self.source.name}"
        return f"{self.url}/{self.source.name}?of={of}&stall_s={self.stall_s}"


Command = Callable[[Errand], list[str]]


@dataclass(frozen=True, slots=True)
class Writer:
    """
    How a program is started, and what syncd has to say of what it leaves when it is killed.

    ``limited``: it limits its rate and does not stall. ``left``: the state of the file in
    ``status``, with a piece of the reason; None where it must not be listed, because it has
    another name until it is whole, or waits. ``makes``: it brings bytes of its own. ``removed``:
    endings of what a person tidies away after the kill.
    """

    name: str
    command: Command
    left: tuple[str, str] | None
    kinds: tuple[str, ...] = KINDS
    limited: bool = False
    kill: signal.Signals = signal.SIGKILL
    removed: str | None = None
    makes: bool = False
    env: Callable[[Errand], Mapping[str, str]] = field(default=lambda errand: {})


# -- those that are held inside a call -------------------------------------------------------------


def _held(errand: Errand, call_number: int, *command: str | Path, also: str = "") -> list[str]:
    """*command*, stalling after its *call_number*-th ``write``; *also* is injected too."""
    stall_us = int(errand.stall_s * 1e6)
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=write,sendfile"]
    strace += ["-e", f"inject=write:delay_exit={stall_us}:when={call_number}"]
    return [*strace, *(["-e", f"inject={also}"] if also else []), *map(str, command)]


def _unzip(errand: Errand) -> list[str]:
    archive = errand.scratch / "model.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(errand.source, errand.target.name)
    return _held(errand, 12, "unzip", "-q", archive, "-d", errand.target.parent)


_SAVE = """
import sys, numpy, safetensors.numpy
noise = numpy.random.default_rng()
tensors = {str(n): noise.integers(0, 256, 1 << 18, dtype=numpy.uint8) for n in range(8)}
safetensors.numpy.save_file(tensors, sys.argv[1])
"""


def _save(errand: Errand) -> list[str]:
    return _held(errand, 2, sys.executable, "-c", _SAVE, errand.target)


_HUB = """
import sys, huggingface_hub
huggingface_hub.hf_hub_download(sys.argv[1], sys.argv[2], local_dir=sys.argv[3])
"""


def _hub(errand: Errand) -> list[str]:
    repository = f"{errand.repository}/models"
    return [sys.executable, "-c", _HUB, repository, errand.target.name, str(errand.target.parent)]


def _hub_cached(errand: Errand) -> list[str]:
    """The file is in the cache; the first sendfile fails, so it is copied by calls of write."""
    kept = errand.scratch / f"hub/models--{errand.repository}--models"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text(COMMIT)
    (kept / "snapshots" / COMMIT).mkdir(parents=True)
    os.link(errand.source, kept / "snapshots" / COMMIT / errand.target.name)
    return _held(errand, 8, *_hub(errand), also="sendfile:error=EINVAL")


def _hub_env(errand: Errand) -> dict[str, str]:
    return {
        "HF_ENDPOINT": f"{errand.url}/{errand.stall_s}",
        "HF_HOME": str(errand.scratch),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


# -- those that are fed, and those that wait by themselves -----------------------------------------


def _shell(script: str, *arguments: str | Path) -> list[str]:
    return ["sh", "-euc", script, "sh", *map(str, arguments)]


def _tar(errand: Errand) -> list[str]:
    script = 'tar cf - -C "$1" "$2" | (head -c 1048576; sleep "$4"; cat) | tar xf - -C "$3"'
    source = errand.source
    return _shell(script, source.parent, source.name, errand.target.parent, str(errand.stall_s))


_TORCH = """
import sys, time, zipfile
pieces = zipfile.ZipFile(sys.argv[1])
with zipfile.ZipFile(sys.argv[2], "w") as archive:
    for number, name in enumerate(pieces.namelist()):
        with archive.open(name, "w") as record:
            record.write(pieces.read(name))
        if number == 2:
            archive.fp.flush()
            time.sleep(float(sys.argv[3]))
"""


def _torch(errand: Errand) -> list[str]:
    arguments = (errand.source, errand.target, errand.stall_s)
    return [sys.executable, "-c", _TORCH, *map(str, arguments)]


_LFS = """
git init -q --bare "$3/origin.git"
git init -q "$3/work"
cd "$3/work"
git lfs install --local --skip-smudge >/dev/null
git lfs track "*.${1##*.}" >/dev/null
cp "$1" .
git add .
git -c user.name=n -c user.email=n@localhost commit -qm model
git push -q "file://$3/origin.git" HEAD:refs/heads/main 2>/dev/null
cd "$2"
git init -q
git lfs install --local --skip-smudge >/dev/null
git pull -q "file://$3/origin.git" main
git remote add origin "file://$3/origin.git"
sleep "$4"
git lfs pull origin >/dev/null
"""


def _git_lfs(errand: Errand) -> list[str]:
    stall = str(errand.stall_s)
    return _shell(_LFS, errand.source, errand.target.parent, errand.scratch, stall)


def _git_env(errand: Errand) -> dict[str, str]:
    return {"GIT_CONFIG_GLOBAL": str(errand.scratch / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1"}


# -- all of them -----------------------------------------------------------------------------------

_RSYNC = ("rsync", f"--bwlimit={RATE_KIB}")
_ARIA2 = (
    "aria2c", "--quiet", "--no-conf", "--split=4", "--max-connection-per-server=4",
    "--min-split-size=1M", "--no-file-allocation-limit=0",
)  # fmt: skip


def _to(errand: Errand, *command: str) -> list[str]:
    return [*command, str(errand.source), str(errand.target)]


def _aria2(errand: Errand, *options: str) -> list[str]:
    target = errand.target
    return [*_ARIA2, *options, "--dir", str(target.parent), "--out", target.name, errand.address]


SHORT = ("incomplete", "")
HOLES = ("incomplete", "holes")
POINTER = ("refused", "git lfs pull")
WAITS = None
NOT_THERE = None

PROGRAMS = ("aria2c", "curl", "git", "git-lfs", "rclone", "rsync", "strace", "unzip", "wget")
"""What the writers below are made of."""

WRITERS = (
    Writer("wget", lambda e: ["wget", "-qO", str(e.target), e.address], SHORT),
    Writer("curl", lambda e: ["curl", "-sRo", str(e.target), e.address], SHORT),
    Writer("aria2", _aria2, WAITS),
    Writer(
        "aria2, its .aria2 removed",
        lambda e: _aria2(e, "--file-allocation=trunc", "--disk-cache=0"),
        HOLES,
        kinds=(SAFETENSORS,),
        removed=".aria2",
    ),
    Writer("rsync", lambda e: _to(e, *_RSYNC), NOT_THERE, limited=True),
    Writer(
        "rsync -aP", lambda e: _to(e, *_RSYNC, "-aPq"), WAITS, limited=True, kill=signal.SIGTERM
    ),
    Writer("rsync --inplace", lambda e: _to(e, *_RSYNC, "--inplace"), SHORT, limited=True),
    Writer(
        "rclone", lambda e: _to(e, "rclone", "copyto", f"--bwlimit={RATE_KIB}"), SHORT, limited=True
    ),
    Writer("cp", lambda e: _held(e, 6, *_to(e, "cp")), SHORT),
    Writer("mv from another disk", lambda e: _held(e, 6, *_to(e, "mv")), SHORT),
    Writer("tar", _tar, SHORT),
    Writer("unzip", _unzip, SHORT),
    Writer("git-lfs", _git_lfs, POINTER, kinds=(SAFETENSORS,), env=_git_env),
    Writer("zipfile, as torch.save", _torch, SHORT, kinds=(PT,), makes=True),
    Writer("safetensors save_file", _save, NOT_THERE, kinds=(SAFETENSORS,), makes=True),
    Writer("huggingface_hub", _hub, NOT_THERE, env=_hub_env),
    Writer("huggingface_hub, cached", _hub_cached, SHORT, env=_hub_env),
)
