"""
The page cache, left as it was found.

A guest that reads 40 GB pushes out what its host has loaded. Where the kernel tells which pages are
there (``cachestat(2)``, Linux 6.5), what was read only for our sake is given back once it was sent,
and what was there before stays. Where it does not tell, nothing is given back: dropping pages blindly
would push out the models themselves.
"""

import ctypes
import os
from contextlib import suppress

from syncd.types import LEAF_SIZE, Part

RWF_DONTCACHE = 0x80
"""Flag of ``preadv2(2)``, Linux 6.14: pages that this read brings in go again with it."""

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
    """How many pages of ``[offset, offset + length)`` are in the cache; None: the kernel does not tell."""
    asked, told = _Range(offset, length), _Stat()
    failed = _libc.syscall(_CACHESTAT, fd, ctypes.byref(asked), ctypes.byref(told), 0)
    return None if failed else int(told.cached)


class Footprint:
    """
    Which leaves of a file had no page in the cache when this was made.

    Args:
        fd: The file, open for reading; not kept.
    """

    def __init__(self, fd: int) -> None:
        starts = range(0, os.fstat(fd).st_size, LEAF_SIZE)
        self._absent = {start for start in starts if cached_pages(fd, start, LEAF_SIZE) == 0}

    def erase(self, fd: int, part: Part) -> None:
        """Give back what reading *part* brought in. A page that is mapped or dirty stays anyway."""
        first = part.offset - part.offset % LEAF_SIZE
        for start in self._absent.intersection(range(first, part.offset + part.size, LEAF_SIZE)):
            with suppress(OSError):  # advice, and the file may be on anything
                os.posix_fadvise(fd, start, LEAF_SIZE, os.POSIX_FADV_DONTNEED)
