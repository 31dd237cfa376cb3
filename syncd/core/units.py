"""
Parse sizes such as ``50GB``.

``kB`` and ``MB`` are powers of 1000. ``KiB`` and ``MiB``, and as in rclone ``K`` and ``M`` in either case,
are powers of 1024.
"""

import re
from collections.abc import Mapping

_LETTERS = tuple(enumerate("KMGT", start=1))

BYTES: Mapping[str, int] = {
    "B": 1,
    **{f"{'k' if letter == 'K' else letter}B": 1000**power for power, letter in _LETTERS},
    **{
        letter + end: 1024**power
        for power, upper in _LETTERS
        for letter in (upper, upper.lower())
        for end in ("iB", "i", "")
    },
}
"""Unit -> bytes."""

_SIZE = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,6})?)(?: ?(?P<unit>[A-Za-z]+))?")


def parse_size(text: str) -> int:
    """Parse ``50GB``, ``4 GiB``, ``512M``, or a plain number of bytes. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    factor = None if match is None else BYTES.get(match["unit"] or "B")
    if match is None or factor is None:
        raise ValueError("is not a size such as 500 MB, 50GB or 4 GiB")
    whole, _, fraction = match["number"].partition(".")
    more = int(fraction or 0) * factor // int("1" + "0" * len(fraction))
    return int(whole) * factor + more
