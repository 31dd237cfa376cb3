"""
What becomes of a file, by its name and size alone: taken, or passed over with a reason.

The rules of one root in one value, so that the daemon and ``syncd plan`` cannot disagree, and a
digest of them, so that a file is judged again only when they change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from syncd.core.files import naming
from syncd.core.files.bundles import bundle_of
from syncd.core.files.naming import ENDINGS, Refusal
from syncd.types import KnownFile, Target, Verdict, printable


@dataclass(frozen=True, slots=True)
class Selected:
    """A file that is wanted: where it goes in the catalog, and the rule that took it."""

    target: Target
    rule: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that gets no job: why, and where it would have gone; both printable."""

    verdict: Verdict
    reason: str
    model_path: str | None = None


@dataclass(frozen=True, slots=True)
class Patterns:
    """
    Lines in gitignore syntax, and where they stand (``select.exclude``).

    ``deciding`` returns the line by which a path is one of them, or None if it is not.
    """

    source: str
    deciding: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Rules:
    """
    What the operator set for one root.

    Patterns of ``include`` and ``exclude`` are compared with the typed path, those of ``ignore``
    with the path below the root.

    Args:
        prefix: What every model_path starts with.
        names: ``[naming.map]``.
        type_key: The root's own model_type; without it the first folder is the type.
        types: The only types taken; empty means all.
        bundles: Types whose folders go as a whole.
        max_file_size: Bytes; None means any.
        digest: Changes whenever anything that decides does.
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
    instead: Callable[[str], str | None] = lambda rel_path: None,
) -> Selected | Skipped:
    """
    Decide about the file *rel_path* of *size* bytes.

    Args:
        instead: Tells which file ComfyUI loads instead of the one at a path, or None.
    """
    bundle = bundle_of(naming.typed(rel_path, rules.type_key), rules.bundles)
    unwanted = naming.unwanted(
        rel_path,
        size,
        type_key=rules.type_key,
        endings=rules.endings,
        bundled=bundle is not None,
    )
    left = unwanted or _left(rules, rel_path, size)
    if left is not None:
        return Skipped(Verdict.IGNORED, left)
    if (other := instead(rel_path)) is not None:
        return Skipped(Verdict.SHADOWED, f"ComfyUI loads {printable(other)} under this name")
    target = naming.target_of(
        rel_path, prefix=rules.prefix, type_key=rules.type_key, names=rules.names
    )
    if isinstance(target, Refusal):
        return Skipped(Verdict.REFUSED, target.reason, printable(target.model_path))
    target = replace(target, bundle=bundle)
    return Selected(target, _taking(rules, rel_path, bundle))


def is_excluded(rules: Rules, rel_path: str) -> bool:
    """Do the operator's patterns leave out what lies at *rel_path*, be it a file or a folder?"""
    typed = naming.typed(rel_path, rules.type_key)
    return any(
        _line(rules.ignore, f"{rel_path}{end}") or _line(rules.exclude, f"{typed}{end}")
        for end in ("", "/")
    )


def stands(judged: Selected | Skipped, known: KnownFile) -> bool:
    """Does what is known of an unchanged file agree with what it is *judged* to be now?"""
    if isinstance(judged, Skipped):
        return (known.verdict, known.reason) == (judged.verdict, judged.reason)
    passed_by_name = known.verdict in (Verdict.IGNORED, Verdict.REFUSED, Verdict.SHADOWED)
    return not passed_by_name and known.model_path == judged.target.model_path


def _left(rules: Rules, rel_path: str, size: int) -> str | None:
    """Why the operator's own rules leave a model out, or None."""
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


def _taking(rules: Rules, rel_path: str, bundle: str | None) -> str:
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
