"""Checks before the test runs that need root."""

from collections.abc import Iterable

import pytest

from tests.tools import ROOT, available, packages_of


def require(programs: Iterable[str]) -> None:
    """Exit unless *programs* are installed and the tests run as root."""
    missing = packages_of(program for program in programs if not available(program))
    if missing:
        pytest.exit(f"Missing. Debian, Ubuntu: sudo apt-get install {' '.join(missing)}", 1)
    if not available(ROOT):
        pytest.exit("This needs root, to mount and to create files of other users.", 1)
