"""
Keeps a process small that stays for weeks: no library that draws, and one heap for all threads.

structlog and httpx import rich and pygments wherever these are installed, for tracebacks and for a
command line of their own. The daemon uses neither, and they would fill 5 MiB of it for good.
"""

import ctypes
import sys

_DRAWING = ("rich", "pygments")
_M_ARENA_MAX = -8  # malloc.h of glibc


def reduce_memory_footprint() -> None:
    """To be called before threads begin, and before structlog and httpx are imported."""
    _share_one_heap()
    _import_without_drawing()


def _share_one_heap() -> None:
    """A heap for each thread, as glibc has it ("mallopt(3)"), is for the most part room that is unused."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have one heap anyway
        mallopt(_M_ARENA_MAX, 1)


def _import_without_drawing() -> None:
    """As if rich was not installed; whoever draws finds it afterwards as ever."""
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
