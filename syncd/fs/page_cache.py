"""
Leaves the page cache as it was before syncd read a file.

Reading 40 GB would evict what other programs have loaded. If the kernel reports which pages are cached
(``cachestat(2)``, Linux 6.5), syncd drops the pages that only it has read. On older kernels it drops
nothing, because dropping pages blindly would evict the models themselves.
"""

import ctypes
import os
from contextlib import suppress

from syncd.types import LEAF_SIZE, Part

RWF_DONTCACHE = 0x80  # of preadv2(2), Linux 6.14: drop the pages that this read brings in
_CACHESTAT = 451  # the same number on every architecture


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class _Stat(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    ]


_libc = ctypes.CDLL(None, use_errno=True)


def cached_pages(fd: int, offset: int, length: int) -> int | None:
    """Count the cached pages of ``[offset, offset + length)``; None if the kernel cannot report them."""
    requested, stat = _Range(offset, length), _Stat()
    failed = _libc.syscall(_CACHESTAT, fd, ctypes.byref(requested), ctypes.byref(stat), 0)
    return None if failed else int(stat.cached)


class Footprint:
    """The leaves of a file that had no page in the cache when this object was created."""

    def __init__(self, fd: int) -> None:
        starts = range(0, os.fstat(fd).st_size, LEAF_SIZE)
        self._absent = {start for start in starts if cached_pages(fd, start, LEAF_SIZE) == 0}

    def erase(self, fd: int, part: Part) -> None:
        """Drop the pages that reading *part* brought in; mapped and dirty pages stay."""
        first = part.offset - part.offset % LEAF_SIZE
        for start in self._absent.intersection(range(first, part.offset + part.size, LEAF_SIZE)):
            with suppress(OSError):  # only advice, and some file systems refuse it
                os.posix_fadvise(fd, start, LEAF_SIZE, os.POSIX_FADV_DONTNEED)
