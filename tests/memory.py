"""A place for files that is no disk."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, in memory where there is such a place: fsync costs nothing there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="syncd-test-", dir=memory))
    try:
        yield made
    finally:
        shutil.rmtree(made)
