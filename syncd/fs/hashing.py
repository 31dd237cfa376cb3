"""
Reads model files: fingerprints, digests, and the bytes to send.

Files are opened read-only and never interpreted. A ``Hasher`` reads every byte first. When the bytes are
read again to be sent, ``checked_pieces`` compares each leaf with the first reading before it yields the
last piece of that leaf. This protects against a file that changes, not against a forger, so the second
digest is the fast XXH3-128.
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
from syncd.types import LEAF_DIGEST_SIZE, LEAF_SIZE, FileDigests, Fingerprint, Kind, Part, printable

PIECE_SIZE = 512 * 1024  # bytes sent at a time: fast, and small enough for 32 sending threads

# O_NONBLOCK: a FIFO in the place of the file must not block the thread.
FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

# Errors of a kernel or file system that does not know RWF_DONTCACHE.
_NO_SUCH_FLAG = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})

T = TypeVar("T")


class Flag(Protocol):
    """A flag that another thread sets, such as a ``threading.Event``."""

    def is_set(self) -> bool: ...


class Stopped(Exception):
    """The job was stopped while its file was read or sent."""


@contextmanager
def open_file(path: str) -> Iterator[int]:
    """Yield a descriptor of a regular file. Raises FileChanged if there is none, JobError if unreadable."""
    with _read_errors(path):
        fd = _retry_if_stale(path, partial(os.open, path, FLAGS), None)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileChanged(f"{printable(path)} is no longer a regular file")
        yield fd
    finally:
        os.close(fd)


def fingerprint_of(fd: int) -> Fingerprint:
    return Fingerprint.of(os.fstat(fd))


def read_fingerprint(path: str) -> Fingerprint:
    """Return the fingerprint of the file at *path*. Raises as ``open_file``."""
    with open_file(path) as fd:
        return fingerprint_of(fd)


class Hasher:
    """
    Computes the SHA-256 of a file and an XXH3-128 of each ``LEAF_SIZE`` bytes, from start to end.

    It keeps no descriptor open between two steps, so hashing can pause until the bytes are sent.

    Args:
        expected: The fingerprint that the file must have before and after each step.
        read_again: The bytes will be read again soon and stay in the page cache until then.
            Otherwise they leave the cache at once (``RWF_DONTCACHE``, if the file system has it).
    """

    def __init__(self, path: str, expected: Fingerprint, *, read_again: bool) -> None:
        self._path = path
        self._expected = expected
        self._sha256 = hashlib.sha256()
        # RWF_DONTCACHE disables read-ahead as well, so larger reads are needed.
        self._flags, self._read_size = (0, PIECE_SIZE) if read_again else (RWF_DONTCACHE, LEAF_SIZE)
        self._buffer = _page_aligned(min(self._read_size, max(expected.size, 1)))
        self.leaves = bytearray()
        self.offset = 0

    @property
    def is_finished(self) -> bool:
        return self.offset >= self._expected.size

    def read_to(self, end: int, *, stop: Flag, on_bytes: Callable[[int], None]) -> None:
        """
        Read on to *end*, a multiple of ``LEAF_SIZE``, or to the end of the file.

        *stop* is checked between leaves; *on_bytes* gets the number of bytes read since the last call.

        Raises:
            FileChanged: The fingerprint differs in more than its ctime, before or after reading.
            Stopped: *stop* was set.
            JobError: The file cannot be read.
        """
        end = min(end, self._expected.size)
        with open_file(self._path) as fd, _read_errors(self._path):
            require_same(fd, self._expected, self._path, ctime=False)
            while self.offset < end:
                if stop.is_set():
                    raise Stopped
                before = self.offset
                self._read_leaf(fd, min(LEAF_SIZE, end - before))
                on_bytes(self.offset - before)
            require_same(fd, self._expected, self._path, ctime=False)

    def digests(self) -> FileDigests:
        """Return the digests of the whole file, after it has been read to its end."""
        assert self.is_finished, "called before the end of the file"
        return FileDigests(self._expected.size, self._sha256.hexdigest(), bytes(self.leaves))

    def _read_leaf(self, fd: int, size: int) -> None:
        digest = xxhash.xxh3_128()
        left = size
        while left:
            wanted = self._buffer[:left]
            count = _retry_if_stale(self._path, partial(self._read, fd, wanted), fd)
            if count == 0:
                raise FileChanged(f"{printable(self._path)} became shorter while it was read")
            self._sha256.update(wanted[:count])
            digest.update(wanted[:count])
            self.offset += count
            left -= count
        self.leaves += digest.digest()

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
    Return a buffer that begins at a page boundary.

    malloc places it 16 bytes into a page. Copying a page of the cache to such an address takes up to six
    times as long, because loads wait for stores with the same low address bits.
    """
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE))


def hash_file(
    path: str, expected: Fingerprint, *, stop: Flag, on_bytes: Callable[[int], None]
) -> FileDigests:
    """
    Return the digests of a whole file and keep its bytes out of the page cache.

    The fingerprint must be *expected* before and after, ctime included. Raises as ``Hasher.read_to``.
    """
    hasher = Hasher(path, expected, read_again=False)
    with open_file(path) as fd:
        require_same(fd, expected, path)
        hasher.read_to(expected.size, stop=stop, on_bytes=on_bytes)
        require_same(fd, expected, path)
    return hasher.digests()


def footprint(path: str) -> Footprint:
    """Record which leaves of the file are in the page cache. Raises as ``open_file``."""
    with open_file(path) as fd:
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
    Yield the bytes of *part* in pieces; compare each leaf with *leaves* before its last piece.

    A leaf that the part covers only partly is compared as a whole. If the generator raises, the request
    that it feeds is aborted, so nothing is stored. Raises as ``Hasher.read_to``.

    Args:
        leaves: The leaf digests of the file, at least up to the end of the part.
        found: The footprint from before the file was first read; None for the current one. Pages that were
            not in the cache then leave it after the part is sent.
    """
    first, last = part.offset // LEAF_SIZE, (part.offset + part.size - 1) // LEAF_SIZE
    with open_file(path) as fd, _read_errors(path):
        require_same(fd, expected, path, ctime=False)
        found = found or Footprint(fd)
        for leaf in range(first, last + 1):
            planned = leaves[leaf * LEAF_DIGEST_SIZE : (leaf + 1) * LEAF_DIGEST_SIZE]
            pieces = _leaf_pieces(fd, leaf, expected.size, planned, path)
            for share in _hold_back_last(_share(piece, part) for piece in pieces):
                if stop.is_set():
                    raise Stopped
                on_bytes(len(share))
                yield share
        require_same(fd, expected, path, ctime=False)
        found.erase(fd, part)


def require_same(fd: int, expected: Fingerprint, path: str, *, ctime: bool = True) -> None:
    """Check that an open file has the *expected* fingerprint. Raises FileChanged."""
    seen = _retry_if_stale(path, partial(fingerprint_of, fd), fd)
    if seen != expected and (ctime or not seen.only_ctime_moved(expected)):
        names = [n for n in seen._fields if getattr(seen, n) != getattr(expected, n)]
        changes = (f"{n} {getattr(expected, n)} -> {getattr(seen, n)}" for n in names)
        raise FileChanged(f"{printable(path)} changed: {', '.join(changes)}")


def _leaf_pieces(
    fd: int, leaf: int, file_size: int, planned: bytes, path: str
) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of one leaf; raise at its end if the digest differs."""
    offset = leaf * LEAF_SIZE
    end = min(offset + LEAF_SIZE, file_size)
    digest = xxhash.xxh3_128()
    while offset < end:
        length = min(PIECE_SIZE, end - offset)
        piece = _retry_if_stale(path, partial(os.pread, fd, length, offset), fd)
        if not piece:
            raise FileChanged(f"{printable(path)} became shorter while it was sent")
        digest.update(piece)
        yield offset, piece
        offset += len(piece)
    if digest.digest() != planned:
        raise FileChanged(f"{printable(path)} holds other bytes than when it was hashed")


def _hold_back_last(shares: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the non-empty *shares*, the last one only after *shares* ended without an error."""
    held = b""
    for share in filter(None, shares):
        if held:
            yield held
        held = share
    if held:
        yield held


def _share(piece: tuple[int, bytes], part: Part) -> bytes:
    offset, data = piece
    start, end = max(part.offset - offset, 0), part.offset + part.size - offset
    return data if start == 0 and end >= len(data) else data[start : max(end, 0)]


def _retry_if_stale(path: str, read: Callable[[], T], fd: int | None) -> T:
    """
    Call *read*; if a network file system reports a stale handle, reopen the file and call it again.

    The new descriptor replaces *fd*. Comparing fingerprints shows whether it is the same file.
    """
    try:
        return read()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    if fd is not None:
        reopened = os.open(path, FLAGS)
        os.dup2(reopened, fd, inheritable=False)
        os.close(reopened)
    return read()


@contextmanager
def _read_errors(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileChanged(f"{printable(path)} is gone") from None
    except NotADirectoryError:
        raise FileChanged(f"{printable(path)} is gone: a folder above it is now a file") from None
    except PermissionError as error:
        raise Permanent(
            f"{printable(path)} cannot be read: {error.strerror}",
            kind=Kind.LOCAL_READ_ERROR,
            advice=f"Let the account that runs syncd read it: chmod a+r '{printable(path)}'",
        ) from error
    except OSError as error:
        raise to_error(
            Kind.LOCAL_READ_ERROR,
            f"{printable(path)} cannot be read: {error.strerror}",
            advice="Check the disk or the network file system that holds it.",
        ) from error
