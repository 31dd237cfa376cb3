"""Run as an account that file permissions apply to; they do not apply to root."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534

_CAPABILITY_VERSION_3 = 0x20080522
_OVERRIDE = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""


@contextmanager
def as_other_account() -> Iterator[None]:
    """Act as an account without privileges, if this process runs as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def set_override(allowed: bool) -> None:
    """
    Allow or forbid root to override permissions, in the calling thread and those that it starts.

    Root stays the owner of its files, so it can still import from a folder that only it may enter.
    """
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, low words first
    libc = ctypes.CDLL(None, use_errno=True)
    _must(libc.capget(header, sets))
    sets[0] = sets[1] if allowed else sets[0] & ~_OVERRIDE
    _must(libc.capset(header, sets))


def _must(failed: int) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
