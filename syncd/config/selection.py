"""
Puts together the rules of each root: the operator's settings and the root's ``.syncdignore``.

There is one such file a root, at its top: one place to look at, and a hint that it changed means
that the whole root is judged again.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence

from pathspec import GitIgnoreSpec

from syncd.config.extra_paths import extra_folders
from syncd.config.settings import Settings
from syncd.core.judge import Patterns, Rules
from syncd.errors import RulesUnusable
from syncd.model import printable

IGNORE_FILE = ".syncdignore"
IGNORE_FILE_MAX = 1024 * 1024
"""Bytes of a ``.syncdignore``, at most."""

REVISION = 1
"""Counted up when the program itself comes to judge differently, so that files are judged again."""


def rules_for(
    settings: Settings, root: str, *, type_key: str | None = None, tree: str = ""
) -> Rules:
    """
    The rules of the root at the path *root*, its ``.syncdignore`` read anew.

    Args:
        type_key: The root's own model_type, if it has one.
        tree: What else decides about this root's files, in words; it goes into the digest.

    Raises:
        RulesUnusable: There is a ``.syncdignore`` and it cannot be used: what it would leave out
            is not known.
    """
    naming, select, limits = settings.naming, settings.select, settings.limits
    ignored = _ignore_lines(root)
    return Rules(
        prefix=naming.prefix,
        names=naming.map,
        type_key=type_key,
        types=frozenset(select.types),
        bundles=frozenset(select.bundles),
        endings=frozenset(select.endings),
        include=_patterns(select.include, "select.include"),
        exclude=_patterns(select.exclude, "select.exclude"),
        ignore=_patterns(ignored, IGNORE_FILE),
        max_file_size=limits.max_file_size,
        digest=_digest(
            REVISION,
            naming.model_dump(),
            select.model_dump(),
            limits.max_file_size,
            (type_key, tree, ignored),
        ),
    )


def unknown_types(settings: Settings) -> Iterator[tuple[str, str]]:
    """
    The settings that name a type which no root has, each with what is wrong.

    Nothing can be told while ``models_dir`` cannot be listed.
    """
    try:
        with os.scandir(settings.models_dir) as entries:
            types = {entry.name for entry in entries if entry.is_dir()}
    except OSError:
        return
    types |= {folder.type_key for folder in extra_folders(settings)}
    select = settings.select
    for key, names in (("select.types", select.types), ("select.bundles", select.bundles)):
        for name in names:
            if name not in types:
                wrong = f"no models directory has a folder {printable(name)}"
                yield key, f"{wrong}.{_nearest(name, types)}"


def _nearest(name: str, types: set[str]) -> str:
    import difflib  # only for a mistyped name

    folded = {each.casefold(): each for each in types}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f" Did you mean {printable(folded[near[0]])}?" if near else ""


def _patterns(lines: Sequence[str], source: str) -> Patterns | None:
    lines = [line for line in lines if line]  # as pathspec does, or its numbers would not fit
    if not lines:
        return None
    spec = GitIgnoreSpec.from_lines(lines)

    def deciding(path: str) -> str | None:
        result = spec.check_file(path)
        return lines[result.index] if result.include and result.index is not None else None

    return Patterns(source, deciding)


def _ignore_lines(root: str) -> Sequence[str]:
    path = os.path.join(root, IGNORE_FILE)
    try:
        with open(path, "rb") as file:
            text = os.fsdecode(file.read(IGNORE_FILE_MAX + 1)).replace("\r\n", "\n")
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise RulesUnusable(f"{printable(path)} cannot be read: {error.strerror}") from None
    if len(text) > IGNORE_FILE_MAX:
        raise RulesUnusable(f"{printable(path)} is larger than {IGNORE_FILE_MAX} bytes")
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            raise RulesUnusable(
                f"{printable(path)}:{number}: is not a pattern in gitignore syntax"
            ) from None
    return lines


def _digest(*parts: object) -> str:
    return hashlib.sha256(ascii(parts).encode("ascii")).hexdigest()
