"""
How many jobs run at the same time, by the size of their files.

Most of the time of a small file is spent waiting for answers, so many of them run at once. A large file
fills the link by itself.
"""

from collections.abc import Iterable

SMALL = 16 * 1024**2
"""The largest small file, in bytes."""

PLACES = 16
"""Small files that run at once. A large file takes the places of several small ones."""


def fitting(running: Iterable[int], waiting: Iterable[int], *, large_files: int) -> int:
    """
    Return how many of the *waiting* jobs may start now, in their order.

    Args:
        running, waiting: The sizes of the jobs' files in bytes.
        large_files: Large files that run at once, from 1 to ``PLACES``.
    """
    # In shares of a place, so that no large file takes less than its part.
    left = PLACES * large_files - sum(_shares(size, large_files) for size in running)
    count = 0
    for size in waiting:
        left -= _shares(size, large_files)
        if left < 0:
            break
        count += 1
    return count


def _shares(size: int, large_files: int) -> int:
    return large_files if size <= SMALL else PLACES
