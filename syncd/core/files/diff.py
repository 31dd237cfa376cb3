"""
Compare the files on disk with the files in the store.

Both sides arrive in path order (``order``) and are merged like two sorted lists, so a tree of a million
files does not have to fit in memory.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from syncd.core.files.naming import is_within
from syncd.types import FoundFile, KnownFile

_File = TypeVar("_File", FoundFile, KnownFile)


@dataclass(frozen=True, slots=True)
class New:
    found: FoundFile


@dataclass(frozen=True, slots=True)
class Changed:
    """A known path with a different fingerprint, or one that the rules now treat differently."""

    found: FoundFile
    known: KnownFile

    @property
    def only_ctime(self) -> bool:
        """Whether only ctime differs: a chmod, a new link, or a rewrite that restored mtime."""
        before = self.known.fingerprint._replace(dev=self.found.fingerprint.dev)
        return before.only_ctime_moved(self.found.fingerprint)


@dataclass(frozen=True, slots=True)
class Gone:
    known: KnownFile


Change = New | Changed | Gone


def order(file: FoundFile | KnownFile) -> bytes:
    """Return the sort key of both sides of ``diff``: the bytes of the path."""
    return os.fsencode(file.rel_path)


def diff(
    found: Iterable[FoundFile],
    known: Iterable[KnownFile],
    *,
    unjudged: Collection[str] = (),
    is_current: Callable[[KnownFile], bool] = lambda known: True,
) -> Iterator[Change]:
    """
    Yield the changes in one root, lazily and in path order.

    Args:
        found, known: In path order, each path once.
        unjudged: Paths that could not be read. Nothing at or below them is reported as gone. It is read as
            late as possible, so the scan may still add to it.
        is_current: Returns whether the rules still treat an unchanged file as before.

    Raises:
        ValueError: A side is out of order; a merge would report existing files as gone.
    """
    ours, theirs = _in_order(found), _in_order(known)
    mine, old = next(ours, None), next(theirs, None)
    while mine is not None or old is not None:
        if old is None or (mine is not None and mine[0] < old[0]):
            assert mine is not None
            yield New(mine[1])
            mine = next(ours, None)
        elif mine is None or old[0] < mine[0]:
            if not is_within(old[1].rel_path, unjudged):
                yield Gone(old[1])
            old = next(theirs, None)
        else:
            same = mine[1].fingerprint.same_file_as(old[1].fingerprint)
            if not same or not is_current(old[1]):
                yield Changed(mine[1], old[1])
            mine, old = next(ours, None), next(theirs, None)


def _in_order(files: Iterable[_File]) -> Iterator[tuple[bytes, _File]]:
    last: bytes | None = None
    for file in files:
        key = order(file)
        if last is not None and key <= last:
            raise ValueError(f"out of path order: {key!r} after {last!r}")
        last = key
        yield key, file
