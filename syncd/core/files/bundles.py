"""
Bundles: models that are folders of files, such as ``diffusers/sdxl/``.

Either all files of a bundle are uploaded or none, because half a bundle is of no use.
"""

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<end>\.[^/]+)")
INDEX_ENDING = ".index.json"
"""The ending of a file that lists the shards next to it."""


def bundle_of(typed_path: str, types: Collection[str]) -> str | None:
    """Return the bundle of a typed path, ``<type>/<folder>``, or None if its type has no bundles."""
    parts = typed_path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 and parts[0] in types else None


def missing_files(names: Collection[str], indexes: Mapping[str, Collection[str]]) -> Iterator[str]:
    """
    Yield the files that a bundle needs and does not have; of a set of shards only the first.

    *names* are the paths of its files, *indexes* the relative paths that each ``*.index.json`` lists.
    """
    there = set(names)
    wanted = {
        posixpath.normpath(posixpath.join(posixpath.dirname(index), shard))
        for index, shards in indexes.items()
        for shard in shards
    }
    yield from sorted(wanted - there)
    # Stop at the first gap of a set: the count in a name is not trusted with memory.
    for stem, count, end in sorted({found for name in names for found in _set_of(name)}):
        siblings = (f"{stem}-{number:05}-of-{count}{end}" for number in range(1, int(count) + 1))
        yield from islice((sibling for sibling in siblings if sibling not in there), 1)


def _set_of(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield the set of shards that a name like ``model-00001-of-00003.safetensors`` belongs to."""
    if match := _SHARD.fullmatch(name):
        yield match["stem"], match["count"], match["end"]
