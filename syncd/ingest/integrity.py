"""
Checks once, before a settled file is queued, whether it is a whole model.

A downloader that was killed leaves a file that never changes again, so the file is opened and judged by
who else has it open, its structure and its holes.
"""

import fcntl
import os
import signal
from dataclasses import dataclass

from syncd.core.files.boundary import Boundary
from syncd.fs import mounts
from syncd.fs.download_notes import expected_sha256, mismatch
from syncd.ingest.formats import structure as formats
from syncd.ingest.formats.window import Fault, Undecided, load_json
from syncd.types import Fingerprint, FoundFile, KnownFile, Verdict, printable

COMPRESSING = frozenset(
    ("btrfs", "zfs", "f2fs", "bcachefs", "ntfs3", "ntfs", "apfs", "squashfs", "erofs", "ubifs")
)
"""File systems on which a complete file may take less space than it has bytes."""

SHARDS_MAX, SHARD_NAME_MAX = 20_000, 4096
"""The largest number of shards that an index may name, and of characters of such a name."""

# Breaking a lease signals its holder, and the default signal would end the process.
_HARMLESS = signal.SIGURG


@dataclass(frozen=True, slots=True)
class Judgement:
    """
    The decision about a file, with the reason in one sentence (None if the file is wanted).

    A verdict of None means that the file cannot be judged now and is examined again soon.
    """

    verdict: Verdict | None
    reason: str | None = None


VALID = Judgement(Verdict.WANTED)


def judge(root: str, found: FoundFile, *, boundary: Boundary, lease: bool) -> Judgement:
    """
    Judge a settled file with bounded reads; nothing in the file is executed.

    Args:
        boundary: A link may lead to a file outside of it only if that file is a model.
        lease: Ask the kernel whether a program has it open for writing, where that is permitted.
    """
    path = os.path.join(root, found.rel_path)
    try:
        # Neither a FIFO nor another process's lease may block us here.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except PermissionError:
        return Judgement(Verdict.UNREADABLE, _permissions(path))
    except OSError as error:
        return Judgement(None, f"it cannot be opened: {error.strerror}")
    try:
        return _judge(fd, path, found, boundary=boundary, lease=lease)
    except OSError as error:
        return Judgement(None, f"it cannot be read: {error.strerror}")
    finally:
        os.close(fd)


def shards_in(path: str) -> list[str]:
    """Return the files that an index of shards names, as it spells them. Raises ValueError or OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        index = load_json(fd, 0, os.fstat(fd).st_size)
    except Fault:
        index = None
    except Undecided as undecided:
        raise ValueError(str(undecided)) from None
    finally:
        os.close(fd)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if isinstance(weights, dict) and all(map(_is_shard_name, weights.values())):
        names = sorted(set(weights.values()))
        if len(names) <= SHARDS_MAX:
            return names
    raise ValueError("it is not an index of shards")


def _is_shard_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= SHARD_NAME_MAX


def still_broken(root: str, known: KnownFile) -> bool:
    """Return whether a known file still lacks the hash that its downloader noted beside it."""
    expected = expected_sha256(root, known.rel_path)
    return expected is not None and known.reason == mismatch(expected)


def has_writer(fd: int) -> bool:
    """
    Return whether a process of this machine has the file open for writing.

    Also False if the kernel does not say: on file systems without leases, and for an account that neither
    owns the file nor has CAP_LEASE. See "fcntl(2)", F_SETLEASE.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, _HARMLESS)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _judge(fd: int, path: str, found: FoundFile, *, boundary: Boundary, lease: bool) -> Judgement:
    if Fingerprint.of(os.fstat(fd)) != found.fingerprint:
        return Judgement(None)
    real = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115, names are bytes
    outside = boundary.is_outside(real)
    if outside and (place := boundary.forbidden(real)) is not None:
        reason = f"a link to {printable(real)}: nothing below {printable(place)} is published"
        return Judgement(Verdict.REFUSED, reason)
    if lease and has_writer(fd):
        return Judgement(None, "a program has it open for writing")
    size = found.fingerprint.size
    structure = formats.check(fd, found.rel_path, size)
    if structure.foreign or (outside and structure.format is None):
        return Judgement(Verdict.REFUSED, _not_a_model(real) if outside else structure.reason)
    if not structure.complete:
        return Judgement(Verdict.INCOMPLETE, _not_whole(real) if outside else structure.reason)
    if outside and not formats.is_model(fd, size, structure):
        return Judgement(Verdict.REFUSED, _not_a_model(real))
    if structure.reason is None and _has_holes(fd, path, size):
        return Judgement(Verdict.INCOMPLETE, _HOLES)
    return VALID


def _not_a_model(real: str) -> str:
    return (
        f"a link to {printable(real)}, outside the models directories, which does not have the "
        "format that its name says. If it is a model, copy it below a models directory, or name its "
        "directory in extra_model_paths"
    )


def _not_whole(real: str) -> str:
    """Leaves out what is wrong, because a check quotes numbers that it read."""
    return (
        f"incomplete or damaged: a link to {printable(real)}, outside the models directories, "
        "which is not a whole model file"
    )


_HOLES = (
    "incomplete: it has holes that were never written, as an interrupted download leaves them. If "
    "it is whole, copy it with: cp --sparse=never"
)


def _has_holes(fd: int, path: str, size: int) -> bool:
    if os.fstat(fd).st_blocks * 512 >= size or os.lseek(fd, 0, os.SEEK_HOLE) >= size:
        return False
    return mounts.mount_of(path).fs_type not in COMPRESSING


def _permissions(path: str) -> str:
    shown = printable(path)
    return (
        f"the account that runs syncd (uid {os.geteuid()}) may not read it. Let it, for example: "
        f"chmod a+r '{shown}', or chgrp it to a group of that account and chmod g+r"
    )
