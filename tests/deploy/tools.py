"""What the runs that take root and other programs need, said before they begin."""

import os
import shutil
from collections.abc import Mapping

import pytest


def require(tools: Mapping[str, str]) -> None:
    """
    End the run unless it is root's and each of *tools* is there.

    Args:
        tools: The name of a command -> the Debian package that brings it.
    """
    lacking = sorted({package for tool, package in tools.items() if not shutil.which(tool)})
    if lacking:
        pytest.exit(f"Missing. Debian, Ubuntu: sudo apt-get install {' '.join(lacking)}", 1)
    if os.geteuid() != 0:
        pytest.exit("This takes root: mounts, and files of other users.", 1)
