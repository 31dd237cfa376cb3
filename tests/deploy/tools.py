"""What the runs that need root check before they begin."""

from collections.abc import Iterable

import pytest

from tests.tools import ROOT, available, packages_of


def require(programs: Iterable[str]) -> None:
    """End the run unless it is root's and each of *programs* is installed."""
    missing = packages_of(program for program in programs if not available(program))
    if missing:
        pytest.exit(f"Missing. Debian, Ubuntu: sudo apt-get install {' '.join(missing)}", 1)
    if not available(ROOT):
        pytest.exit("This needs root: it mounts, and makes files of other users.", 1)
