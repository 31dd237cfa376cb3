"""
An index of shards (``*.index.json``): which files does its ``weight_map`` name?

The index maps the name of each tensor to the name of the file that holds it. It is read as a stream:
a large model has hundreds of thousands of tensors in some hundred files.
"""

import re

from syncd.ingest.formats.jsontext import PLAIN, SPACE, JsonText
from syncd.ingest.formats.window import Fault

MAX_SHARDS = 20_000
"""Different names; the largest models are published in a few hundred files."""

MAX_NAME = 4096
"""Characters of a name, which is a path beside the index."""

_USUAL = re.compile(rf'{SPACE},{SPACE}{PLAIN}{SPACE}:{SPACE}"([^"\\\x00-\x1f]{{0,512}}+)"')
"""A tensor behind another one: one match instead of a call for each token."""


def shards(fd: int, size: int) -> set[str]:
    """
    The names in the index of *size* bytes that is open as *fd*, as they are spelled there.

    Raises:
        Fault: It is no such index, or names more than ``MAX_SHARDS`` files.
        OSError: The file cannot be read.
    """
    index, found = JsonText(fd, 0, size), None
    for name in index.members():
        if name == "weight_map":
            found = _names(index)
        else:
            index.skip_value()
    index.finish()
    if found is None:
        raise Fault("damaged: the index has no weight_map")
    return found


def _names(index: JsonText) -> set[str]:
    found: set[str] = set()
    for _ in index.members():
        found.add(index.string(MAX_NAME))
        for usual in index.run(_USUAL):
            found.add(usual[1])
            _require_few(found)
        _require_few(found)
    return found


def _require_few(found: set[str]) -> None:
    if len(found) > MAX_SHARDS:
        raise Fault(f"damaged: the index names more than {MAX_SHARDS:,} files")
