"""
Models that are folders: ``diffusers/sdxl/``, with a file for each part of the model.

Of such a bundle all files go or none: an agent that finds half of it has nothing.
"""

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<end>\.[^/]+)")
INDEX_ENDING = ".index.json"
"""What the name of a file ends in that lists the shards beside it."""


def bundle_of(typed_path: str, types: Collection[str]) -> str | None:
    """The bundle that a typed path belongs to, ``<type>/<folder>``, if its type has bundles."""
    parts = typed_path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 and parts[0] in types else None


def missing(names: Collection[str], indexes: Mapping[str, Collection[str]]) -> Iterator[str]:
    """
    The files of a bundle that must be there and are not; of a set of shards the first one.

    Args:
        names: Its files, as paths.
        indexes: What each ``*.index.json`` among them lists, as paths beside it.
    """
    there = set(names)
    wanted = {
        posixpath.normpath(posixpath.join(posixpath.dirname(index), shard))
        for index, shards in indexes.items()
        for shard in shards
    }
    yield from sorted(wanted - there)
    # A set is searched no further than to its first gap: a name may promise more than there is memory.
    for stem, count, end in sorted({found for name in names for found in _set_of(name)}):
        brothers = (f"{stem}-{number:05}-of-{count}{end}" for number in range(1, int(count) + 1))
        yield from islice((brother for brother in brothers if brother not in there), 1)


def _set_of(name: str) -> Iterator[tuple[str, str, str]]:
    """The set of shards that a name like ``model-00001-of-00003.safetensors`` is one of."""
    if match := _SHARD.fullmatch(name):
        yield match["stem"], match["count"], match["end"]
