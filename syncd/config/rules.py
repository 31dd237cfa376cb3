"""
Builds the selection rules of each root from the settings and the root's ``.syncdignore``.

Each root has one such file at its top, so a change of it means that the whole root is checked again.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from syncd.config.extra_paths import extra_folders
from syncd.config.settings import Settings
from syncd.core.files.gitignore import BadLine, deciding, parse_all
from syncd.core.files.selection import Patterns, Rules
from syncd.errors import RulesUnusable
from syncd.types import printable

IGNORE_FILE = ".syncdignore"
IGNORE_FILE_MAX = 64 * 1024
"""Maximum bytes of a ``.syncdignore``; they limit the cost of matching one file."""

REVISION = 1
"""Increased when the selection logic changes, so that all files are checked again."""


def rules_for(
    settings: Settings, root: str, *, type_key: str | None = None, tree: str = ""
) -> Rules:
    """
    Build the rules of *root*; its ``.syncdignore`` is read again.

    Args:
        type_key: The root's own model_type, if it has one.
        tree: Other facts that decide about this root's files; part of the digest.

    Raises:
        RulesUnusable: The ``.syncdignore`` exists but cannot be read or parsed.
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
    Yield each setting that names a type without a folder, and the error text.

    Yields nothing while ``models_dir`` cannot be listed.
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
    patterns = parse_all(lines)

    def decide(path: str) -> str | None:
        pattern = deciding(patterns, path)
        return None if pattern is None or pattern.negated else pattern.line

    return Patterns(source, decide) if any(lines) else None


def _ignore_lines(root: str) -> Sequence[str]:
    path = os.path.join(root, IGNORE_FILE)
    try:
        lines = os.fsdecode(_content(path)).replace("\r\n", "\n").split("\n")
        parse_all(lines)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise RulesUnusable(f"{printable(path)} cannot be read: {error.strerror}") from None
    except BadLine as bad:
        raise RulesUnusable(f"{printable(path)}:{bad.number}: {printable(bad.fault)}") from None
    return lines


def _content(path: str) -> bytes:
    """
    Read the ignore file. A link is not followed, because reasons quote lines of this file.

    Raises:
        OSError: It cannot be read.
        RulesUnusable: It is not a regular file, or larger than ``IGNORE_FILE_MAX``.
    """
    # O_NONBLOCK: a FIFO under this name must not hang the thread.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    if Path(path).is_symlink():
        raise RulesUnusable(f"{printable(path)} is a link, which is not followed: copy the file")
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RulesUnusable(f"{printable(path)} is not a regular file")
        content = file.read(IGNORE_FILE_MAX + 1)
    if len(content) > IGNORE_FILE_MAX:
        raise RulesUnusable(f"{printable(path)} is larger than {IGNORE_FILE_MAX} bytes")
    return content


def _digest(*parts: object) -> str:
    return hashlib.sha256(ascii(parts).encode("ascii")).hexdigest()
