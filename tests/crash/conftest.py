"""Where runs are cut short: scenes of a small run, several at a time."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.scenario import Theatre

MEMORY = Path("/dev/shm")
"""kill -9 loses nothing of the page cache, so a disk would only cost time."""


@pytest.fixture(scope="session")
def theatre() -> Iterator[Theatre]:
    """Scenes in memory where the machine has such a file system."""
    with TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        theatre = Theatre(Path(folder))
        yield theatre
        theatre.close()
