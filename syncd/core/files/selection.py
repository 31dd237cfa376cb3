"""
Decide by name and size whether a file is selected, or skipped with a reason.

One value contains all rules of a root, so that the daemon and ``syncd plan`` cannot disagree.
"""

import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from syncd.core.files import naming
from syncd.core.files.naming import ENDINGS, Refusal
from syncd.types import KnownFile, Target, Verdict, printable


@dataclass(frozen=True, slots=True)
class Selected:
    target: Target
    rule: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that gets no job: the reason, and where it would have gone; both printable."""

    verdict: Verdict
    reason: str
    model_path: str | None = None


@dataclass(frozen=True, slots=True)
class Patterns:
    """
    Lines in gitignore syntax and their source, such as ``select.exclude``.

    ``deciding`` returns the line that matches a path, or None.
    """

    source: str
    deciding: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Rules:
    """
    The configured rules of one root.

    The patterns of ``include`` and ``exclude`` apply to the typed path, those of ``ignore`` to the path
    below the root. ``names`` is ``[naming.map]``; no ``types`` means all. ``digest`` changes with any
    rule and shows when known files must be judged again.
    """

    prefix: str = "models/"
    names: Mapping[str, str] = field(default_factory=dict)
    type_key: str | None = None
    types: frozenset[str] = frozenset()
    bundles: frozenset[str] = frozenset()
    endings: frozenset[str] = ENDINGS
    include: Patterns | None = None
    exclude: Patterns | None = None
    ignore: Patterns | None = None
    max_file_size: int | None = None
    digest: str = ""


def judge(
    rules: Rules,
    rel_path: str,
    size: int,
    *,
    loaded_instead: Callable[[str], str | None] = lambda rel_path: None,
) -> Selected | Skipped:
    """
    Decide about the file *rel_path* of *size* bytes.

    *loaded_instead* returns the file that ComfyUI loads instead of the one at a path, or None.
    """
    bundle = bundle_of(naming.typed(rel_path, rules.type_key), rules.bundles)
    unwanted = naming.unwanted(
        rel_path,
        size,
        type_key=rules.type_key,
        endings=rules.endings,
        bundled=bundle is not None,
    )
    reason = unwanted or _excluded(rules, rel_path, size)
    if reason is not None:
        return Skipped(Verdict.IGNORED, reason)
    if (other := loaded_instead(rel_path)) is not None:
        return Skipped(Verdict.SHADOWED, f"ComfyUI loads {printable(other)} under this name")
    target = naming.target_of(
        rel_path, prefix=rules.prefix, type_key=rules.type_key, names=rules.names
    )
    if isinstance(target, Refusal):
        return Skipped(Verdict.REFUSED, target.reason, printable(target.model_path))
    target = replace(target, bundle=bundle)
    return Selected(target, _selecting_rule(rules, rel_path, bundle))


def is_excluded(rules: Rules, rel_path: str) -> bool:
    """Return whether a pattern excludes *rel_path*, as a file or as a folder."""
    typed = naming.typed(rel_path, rules.type_key)
    return any(
        _line(rules.ignore, f"{rel_path}{end}") or _line(rules.exclude, f"{typed}{end}")
        for end in ("", "/")
    )


def is_current(judged: Selected | Skipped, known: KnownFile) -> bool:
    """Return whether the store already has the result *judged* for an unchanged file."""
    if isinstance(judged, Skipped):
        return (known.verdict, known.reason) == (judged.verdict, judged.reason)
    skipped_by_name = known.verdict in (Verdict.IGNORED, Verdict.REFUSED, Verdict.SHADOWED)
    return not skipped_by_name and known.model_path == judged.target.model_path


def _excluded(rules: Rules, rel_path: str, size: int) -> str | None:
    typed = naming.typed(rel_path, rules.type_key)
    model_type = typed.partition("/")[0]
    if (line := _line(rules.ignore, rel_path) or _line(rules.exclude, typed)) is not None:
        return f"excluded by {line}"
    if rules.types and model_type not in rules.types:
        return f"type {printable(model_type)} is not in select.types"
    if rules.include is not None and rules.include.deciding(typed) is None:
        return f"matches no line of {rules.include.source}"
    if rules.max_file_size is not None and size > rules.max_file_size:
        return f"larger than limits.max_file_size, {rules.max_file_size} bytes"
    return None


def _selecting_rule(rules: Rules, rel_path: str, bundle: str | None) -> str:
    typed = naming.typed(rel_path, rules.type_key)
    if (line := _line(rules.include, typed)) is not None:
        rule = f"included by {line}"
    elif bundle is not None:
        rule = f"bundle {printable(bundle)}"
    else:
        rule = f"ending {naming.ending_of(rel_path)}"
    named = naming.naming_line(typed, rules.names)
    return rule if named is None else f"{rule}; named by {printable(named)} ([naming.map])"


def _line(patterns: Patterns | None, path: str) -> str | None:
    line = None if patterns is None else patterns.deciding(path)
    return None if patterns is None or line is None else f"{printable(line)} ({patterns.source})"


# -- bundles: folders of files such as diffusers/sdxl/, uploaded as a whole or not at all --------------

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
