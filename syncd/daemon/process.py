"""
Reduces the memory footprint of the daemon: no terminal libraries, and one heap for all threads.

structlog and httpx import rich and pygments if these are installed. The daemon uses neither, and they
would occupy 5 MiB.
"""

import ctypes
import sys

_DRAWING = ("rich", "pygments")
_M_ARENA_MAX = -8  # malloc.h of glibc


def reduce_memory_footprint() -> None:
    """Call before threads start, and before structlog and httpx are imported."""
    _share_one_heap()
    _import_without_drawing()


def _share_one_heap() -> None:
    """Use one heap: glibc's heaps for each thread (mallopt(3)) are mostly unused memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have one heap anyway
        mallopt(_M_ARENA_MAX, 1)


def _import_without_drawing() -> None:
    """Import structlog and httpx as if rich was not installed; later imports of rich work."""
    hidden = [name for name in _DRAWING if name not in sys.modules]
    for name in hidden:
        # What import takes for "not installed" ("The module cache" in the language reference).
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import httpx  # noqa: F401
        import structlog  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
