"""
Reading a model file: what it is (fingerprint), what it holds (plan), and its bytes for the wire.

Files are opened read-only and never interpreted. The ``Hasher`` takes the first look at every byte;
the pieces handed out by ``checked_pieces`` are the second, compared with the first leaf by leaf
before the last piece of a leaf is handed on. What is guarded against is a file that moves, not a forger,
so the second look is XXH3-128 (about 10 GB/s) and not another SHA-256.
"""

import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import xxhash

from syncd.core.jobs.error_mapping import to_error
from syncd.errors import FileChanged, Permanent
from syncd.fs.page_cache import RWF_DONTCACHE, Footprint
from syncd.types import LEAF_DIGEST_SIZE, LEAF_SIZE, Fingerprint, Kind, Part, Plan, printable

PIECE_SIZE = 512 * 1024
"""Bytes handed to the wire at a time: large enough for speed, small enough for 32 senders."""


# O_NONBLOCK: a FIFO put in the file's place must not hang the thread.
FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_NO_SUCH_FLAG = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""What a kernel or file system says that does not know ``RWF_DONTCACHE``."""

T = TypeVar("T")


class Flag(Protocol):
    """Something that another thread may raise, such as a ``threading.Event``."""

    def is_set(self) -> bool:
        """Is it raised?"""
        ...


class Stopped(Exception):
    """The job was told to stop while its bytes were moving."""


@contextmanager
def opened(path: str) -> Iterator[int]:
    """
    A read-only descriptor of the regular file at *path*.

    Raises:
        FileChanged: Nothing is there any more, or it is not a regular file.
        JobError: The file cannot be opened (retry table row 30), with the remedy.
    """
    with _read_errors(path):
        fd = _afresh(path, partial(os.open, path, FLAGS), None)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileChanged(f"{printable(path)} is not a regular file any more")
        yield fd
    finally:
        os.close(fd)


def fingerprint_of(fd: int) -> Fingerprint:
    """The fingerprint of an open file."""
    st = os.fstat(fd)
    return Fingerprint(st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def look(path: str) -> Fingerprint:
    """
    The fingerprint of the file at *path* as it is now.

    Raises:
        FileChanged: It is gone, or not a regular file any more.
        JobError: It cannot be opened.
    """
    with opened(path) as fd:
        return fingerprint_of(fd)


class Hasher:
    """
    Reads a file from its first byte on: its SHA-256 and an XXH3-128 for each ``LEAF_SIZE`` bytes.

    It is asked for the file in stretches and keeps no descriptor between them, so that it may wait
    for whoever sends what was hashed.

    Args:
        expected: What the file must be before the first and after the last byte of each stretch.
        read_again: Its bytes are about to be read once more and stay in the page cache for that;
            else they leave no trace there (``RWF_DONTCACHE``, where the file system has it).
    """

    def __init__(self, path: str, expected: Fingerprint, *, read_again: bool) -> None:
        self._path = path
        self._expected = expected
        self._sha256 = hashlib.sha256()
        # A read that leaves no trace does not read ahead either, so it asks for more at once.
        self._flags, self._reach = (0, PIECE_SIZE) if read_again else (RWF_DONTCACHE, LEAF_SIZE)
        self._buffer = _page_aligned(min(self._reach, max(expected.size, 1)))
        self.leaves = bytearray()
        self.offset = 0

    @property
    def is_through(self) -> bool:
        """Was the last byte read?"""
        return self.offset >= self._expected.size

    def read_to(self, end: int, *, stop: Flag, on_bytes: Callable[[int], None]) -> None:
        """
        Read on to *end*, a multiple of ``LEAF_SIZE``, or to the end of the file.

        Args:
            stop: Looked at between leaves.
            on_bytes: Called with the bytes read since the last call.

        A ctime that moved alone is let pass here, as it is in ``checked_pieces``.

        Raises:
            FileChanged: The fingerprint differs but for ctime, before or after reading.
            Stopped: *stop* was set.
            JobError: The file cannot be read.
        """
        end = min(end, self._expected.size)
        with opened(self._path) as fd, _read_errors(self._path):
            require_same(fd, self._expected, self._path, ctime=False)
            while self.offset < end:
                if stop.is_set():
                    raise Stopped
                count = self._leaf(fd, min(LEAF_SIZE, end - self.offset))
                on_bytes(count)
            require_same(fd, self._expected, self._path, ctime=False)

    def plan(self) -> Plan:
        """What the whole file is, once it was read."""
        assert self.is_through, "asked for at the end"
        return Plan(self._expected.size, self._sha256.hexdigest(), bytes(self.leaves))

    def _leaf(self, fd: int, size: int) -> int:
        """Read and digest one leaf of *size* bytes; its size."""
        digest = xxhash.xxh3_128()
        left = size
        while left:
            wanted = self._buffer[:left]
            count = _afresh(self._path, partial(self._read, fd, wanted), fd)
            if count == 0:
                raise FileChanged(f"{printable(self._path)} became shorter while it was read")
            self._sha256.update(wanted[:count])
            digest.update(wanted[:count])
            self.offset += count
            left -= count
        self.leaves += digest.digest()
        return size

    def _read(self, fd: int, buffer: memoryview) -> int:
        try:
            return os.preadv(fd, [buffer], self.offset, self._flags)
        except OSError as error:
            if not self._flags or error.errno not in _NO_SUCH_FLAG:
                raise
        self._flags = 0
        return self._read(fd, buffer)


def _page_aligned(size: int) -> memoryview:
    """
    *size* bytes to read into, from the first byte of a page on.

    Where malloc puts so many bytes, 16 into a page, copying a page of the cache there takes up to
    six times as long: each load has to wait for a store that has the same low bits of its address.
    """
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE))


def make_plan(
    path: str, expected: Fingerprint, *, stop: Flag, on_bytes: Callable[[int], None]
) -> Plan:
    """
    Read the whole file once, and leave no trace of that in the page cache.

    Args:
        expected: What the file must be before the first and after the last byte, ctime included.
        stop, on_bytes: As for ``Hasher.read_to``.

    Raises:
        FileChanged, Stopped, JobError: As ``Hasher.read_to``.
    """
    hasher = Hasher(path, expected, read_again=False)
    with opened(path) as fd:
        require_same(fd, expected, path)
        hasher.read_to(expected.size, stop=stop, on_bytes=on_bytes)
        require_same(fd, expected, path)
    return hasher.plan()


def footprint(path: str) -> Footprint:
    """
    What of the file is in the page cache before it is read.

    Raises:
        FileChanged: It is gone, or not a regular file any more.
        JobError: It cannot be opened.
    """
    with opened(path) as fd:
        return Footprint(fd)


def checked_pieces(
    path: str,
    expected: Fingerprint,
    part: Part,
    leaves: bytes,
    *,
    found: Footprint | None = None,
    stop: Flag,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Iterator[bytes]:
    """
    The bytes of *part* in pieces, each leaf compared with *leaves* before its last piece leaves.

    A leaf that the part's edges cut is read and digested whole; only the part's share is handed
    out, and of that too the last piece only when the whole leaf agrees. When the generator raises,
    the request that it feeds is cut off, so nothing is stored. A ctime that moved alone is let pass
    here, since the bytes themselves are compared; the worker reads the file again before it
    registers anything.

    Args:
        leaves: The file's leaf digests, as far as the part's own at least.
        found: What was in the page cache before anything of the file was read; None: what is now.
            The rest goes again once the part was handed out.

    Raises:
        FileChanged: The fingerprint moved but for ctime, or a leaf differs from the plan.
        Stopped: *stop* was set.
        JobError: The file cannot be read.
    """
    first, last = part.offset // LEAF_SIZE, (part.offset + part.size - 1) // LEAF_SIZE
    with opened(path) as fd, _read_errors(path):
        require_same(fd, expected, path, ctime=False)
        found = found or Footprint(fd)
        for leaf in range(first, last + 1):
            planned = leaves[leaf * LEAF_DIGEST_SIZE : (leaf + 1) * LEAF_DIGEST_SIZE]
            pieces = _leaf_pieces(fd, leaf, expected.size, planned, path)
            for share in _last_held_back(_share(piece, part) for piece in pieces):
                if stop.is_set():
                    raise Stopped
                on_bytes(len(share))
                yield share
        require_same(fd, expected, path, ctime=False)
        found.erase(fd, part)


def require_same(fd: int, expected: Fingerprint, path: str, *, ctime: bool = True) -> None:
    """
    Compare an open file with the fingerprint it must have, with or without *ctime*.

    Raises:
        FileChanged: They differ.
    """
    seen = _afresh(path, partial(fingerprint_of, fd), fd)
    if seen != expected and (ctime or not seen.only_ctime_moved(expected)):
        raise FileChanged(f"{printable(path)} changed: {_difference(expected, seen)}")


def _leaf_pieces(
    fd: int, leaf: int, file_size: int, planned: bytes, path: str
) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of one leaf; raises at its end where the digest does not agree."""
    offset = leaf * LEAF_SIZE
    end = min(offset + LEAF_SIZE, file_size)
    digest = xxhash.xxh3_128()
    while offset < end:
        length = min(PIECE_SIZE, end - offset)
        piece = _afresh(path, partial(os.pread, fd, length, offset), fd)
        if not piece:
            raise FileChanged(f"{printable(path)} became shorter while it was sent")
        digest.update(piece)
        yield offset, piece
        offset += len(piece)
    if digest.digest() != planned:
        raise FileChanged(
            f"{printable(path)} holds other bytes than when it was hashed", unseen=True
        )


def _last_held_back(shares: Iterable[bytes]) -> Iterator[bytes]:
    """The *shares* that are not empty, the last one only once there are no more."""
    held = b""
    for share in filter(None, shares):
        if held:
            yield held
        held = share
    if held:
        yield held


def _share(piece: tuple[int, bytes], part: Part) -> bytes:
    """What of *piece* lies within *part*."""
    offset, data = piece
    start, end = max(part.offset - offset, 0), part.offset + part.size - offset
    return data if start == 0 and end >= len(data) else data[start : max(end, 0)]


def _afresh(path: str, read: Callable[[], T], fd: int | None) -> T:
    """
    What *read* gives; where the server of a network file system forgot the file, it is opened again.

    The new descriptor takes the place of *fd*. Whether it is the same file is the fence's business.
    """
    try:
        return read()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    if fd is not None:
        fresh = os.open(path, FLAGS)
        os.dup2(fresh, fd, inheritable=False)
        os.close(fresh)
    return read()


def _difference(expected: Fingerprint, seen: Fingerprint) -> str:
    return ", ".join(
        f"{name} {getattr(expected, name)} -> {getattr(seen, name)}"
        for name in ("dev", "inode", "size", "mtime_ns", "ctime_ns")
        if getattr(expected, name) != getattr(seen, name)
    )


@contextmanager
def _read_errors(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileChanged(f"{printable(path)} is gone") from None
    except NotADirectoryError:
        raise FileChanged(f"{printable(path)} is gone: a folder above it is a file now") from None
    except PermissionError as error:
        raise _unreadable(path, error) from error
    except OSError as error:
        raise to_error(
            Kind.LOCAL_READ_ERROR,
            f"{printable(path)} cannot be read: {error.strerror}",
            advice="Check the disk or the network file system that holds it.",
        ) from error


def _unreadable(path: str, error: OSError) -> Permanent:
    return Permanent(
        f"{printable(path)} cannot be read: {error.strerror}",
        kind=Kind.LOCAL_READ_ERROR,
        advice=f"Let the account that runs syncd read it, for example: chmod a+r '{printable(path)}'",
    )
