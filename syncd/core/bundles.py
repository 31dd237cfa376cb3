"""
Models that are folders: ``diffusers/sdxl/``, with a file for each part of the model.

Of such a bundle all files go or none: an agent that finds half of it has nothing.
"""

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<end>\.[^/]+)")
INDEX_ENDING = ".index.json"
"""What the name of a file ends in that lists the shards beside it."""

MAX_SHARDS = 10_000


def bundle_of(typed_path: str, types: Collection[str]) -> str | None:
    """The bundle that a typed path belongs to, ``<type>/<folder>``, if its type has bundles."""
    parts = typed_path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 and parts[0] in types else None


def missing(names: Collection[str], indexes: Mapping[str, Collection[str]]) -> Iterator[str]:
    """
    The files of a bundle that must be there and are not, in order.

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
    for name in names:
        wanted.update(_brothers(name))
    yield from sorted(wanted - there)


def _brothers(name: str) -> Iterator[str]:
    """All shards of a set, told by the name of one: ``model-00001-of-00003.safetensors``."""
    match = _SHARD.fullmatch(name)
    if match is None or int(match["count"]) > MAX_SHARDS:
        return
    for number in range(1, int(match["count"]) + 1):
        yield f"{match['stem']}-{number:05}-of-{match['count']}{match['end']}"
