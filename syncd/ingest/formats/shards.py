"""
Reads an index of shards (``*.index.json``).

The index maps the name of each tensor to the name of the file that contains it.
"""

from collections.abc import Iterable

from syncd.ingest.formats.bounded_json import load_json
from syncd.ingest.formats.window import Fault

MAX_SHARDS = 20_000
"""Different names; the largest models are published in a few hundred files."""

MAX_NAME = 4096
"""Characters of a name, which is a path beside the index."""


def shards(fd: int, size: int) -> set[str]:
    """
    Return the names in the index of *size* bytes that is open as *fd*, as the index spells them.

    Raises:
        Fault: It is not such an index, or names more than ``MAX_SHARDS`` files.
        Undecided: It is too large to be parsed.
        OSError: The file cannot be read.
    """
    match load_json(fd, 0, size):
        case {"weight_map": dict(weight_map)}:
            names = set(weight_map.values()) if _are_names(weight_map.values()) else None
        case _:
            names = None
    if names is None:
        raise Fault("damaged: the index has no weight_map of file names")
    if len(names) > MAX_SHARDS:
        raise Fault(f"damaged: the index names more than {MAX_SHARDS:,} files")
    return names


def _are_names(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) and len(value) <= MAX_NAME for value in values)
