"""Resolves the file names that users type, for all commands."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from syncd.config.settings import Settings
from syncd.core.files import naming
from syncd.errors import SyncdError
from syncd.ingest.comparer import Root
from syncd.store.reports import Report
from syncd.types import printable

NAMES_MOST = 20_000
"""Known names that a misspelt one is compared with."""

NEAR_MOST = 3


class NoSuchFile(SyncdError):
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder below a root, by its raw name; the empty ``rel_path`` is the root itself."""

    root: Root
    rel_path: str

    @property
    def path(self) -> str:
        return os.path.join(self.root.path, self.rel_path) if self.rel_path else self.root.path

    @property
    def shown(self) -> str:
        """The displayed path."""
        return printable(self.root.display_path(self.rel_path) or self.root.path)

    def holds(self, root: str, type_key: str | None, rel_path: str) -> bool:
        """Return whether a file is this one or below this folder."""
        same_root = (root, type_key) == (self.root.path, self.root.type_key)
        return same_root and naming.is_within(rel_path, {self.rel_path})


def resolve(
    given: str, settings: Settings, roots: Mapping[int, Root], report: Report | None
) -> Place:
    """
    Return the file or folder that *given* names; one on disk takes precedence over one in the store.

    *given* may be absolute, relative to the working directory, relative to a models directory
    (``loras/x.pt``), a model path (``models/loras/x.pt``), or as ``syncd status`` shows it.

    Raises:
        NoSuchFile: Nothing of that name is watched; the text names near matches.
    """
    candidates = list(_candidates(given, settings, list(roots.values())))
    for place in candidates:
        if os.path.lexists(place.path):
            return place
    by_key = {(root.path, root.type_key): root for root in roots.values()}
    paths = () if report is None else report.paths(NAMES_MOST)
    known = [Place(by_key[p, key], rel) for p, key, rel in paths if (p, key) in by_key]
    for place in known:
        if place in candidates or given in (place.shown, printable(place.rel_path)):
            return place
    raise NoSuchFile(_no_such(given, [place.shown for place in known], list(roots.values())))


def _candidates(given: str, settings: Settings, roots: Sequence[Root]) -> Iterator[Place]:
    for root in sorted(roots, key=lambda root: -len(root.path)):
        for path in (os.path.abspath(given), os.path.realpath(given)):
            for top in (root.path, os.path.realpath(root.path)):
                if naming.is_within(path, {top.rstrip("/")}):
                    yield Place(root, path[len(top) :].strip("/"))
    below = os.path.normpath(given)
    if below.startswith(("/", "../")) or below == "..":
        return
    for name in (below, below.removeprefix(settings.naming.prefix)):
        for root in roots:
            yield Place(root, name.removeprefix(f"{root.type_key}/") if root.type_key else name)


def _no_such(given: str, known: Sequence[str], roots: Sequence[Root]) -> str:
    name = os.path.basename(given.rstrip("/")).casefold()
    near = [shown for shown in known if os.path.basename(shown).casefold() == name]
    near += difflib.get_close_matches(printable(given), known, n=NEAR_MOST, cutoff=0.6)
    near = list(dict.fromkeys(near))[:NEAR_MOST]
    tops = ", ".join(printable(root.path) for root in roots)
    ask = f"Did you mean {' or '.join(near)}?" if near else "syncd plan lists the files there."
    return f"{printable(given)}: no such file or folder in {tops}. {ask}"
