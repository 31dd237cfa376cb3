"""
Patterns in gitignore syntax, matched in bounded time; see "gitignore(5)", PATTERN FORMAT.

A pattern becomes a regular expression in which each wildcard stops at the first place where the rest
matches and does not backtrack. The cost of a match is therefore bounded by the length of the pattern times
the length of the path.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

PATTERN_MAX = 1000  # characters of a pattern
PATTERNS_MAX = 1000  # patterns in a list, without comments and blank lines
_NONE = "is not a pattern in gitignore syntax"

_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<star>\*)|(?P<any>\?)|\[(?P<but>[!^]?+)(?P<set>\]?+[^]]*+)\]|(?P<plain>[^\\[])",
    re.DOTALL,
)
_SET_ITEM = re.compile("(.)-(.)|(.)", re.DOTALL)


class BadLine(ValueError):
    """Line *number*, counted from 1, is not a pattern; *fault* is a predicate."""

    def __init__(self, number: int, fault: str) -> None:
        super().__init__(number, fault)
        self.number, self.fault = number, fault


class _Unclosed(Exception):
    """A bracket is not closed; git ignores such a line."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line; ``negated`` if it re-includes what earlier lines matched."""

    line: str
    negated: bool
    regex: re.Pattern[str]


def parse(line: str) -> Pattern | None:
    """Return the pattern in *line*, or None if git ignores the line. Raises ValueError, a predicate."""
    text = line if line.endswith("\\ ") else line.rstrip()
    if not text or text.startswith("#") or text == "/":
        return None
    if len(text) > PATTERN_MAX:
        raise ValueError(f"is longer than {PATTERN_MAX} characters")
    try:
        regex = re.compile(_regex(text.removeprefix("!")), re.DOTALL)
    except _Unclosed:
        return None
    return Pattern(line, text.startswith("!"), regex)


def parse_all(lines: Iterable[str]) -> tuple[Pattern, ...]:
    """Return the patterns in *lines*. Raises BadLine, also beyond ``PATTERNS_MAX``."""
    patterns: list[Pattern] = []
    for number, line in enumerate(lines, start=1):
        try:
            pattern = parse(line)
        except ValueError as error:
            raise BadLine(number, str(error)) from None
        if pattern is not None:
            patterns.append(pattern)
        if len(patterns) > PATTERNS_MAX:
            raise BadLine(number, f"is the first beyond {PATTERNS_MAX} patterns")
    return tuple(patterns)


def deciding(patterns: Sequence[Pattern], path: str) -> Pattern | None:
    """
    Return the pattern that applies to the file at *path*, or None.

    It is the last one that matches the path itself, or else the last one that matches a parent folder.
    """
    above = None
    for pattern in reversed(patterns):
        if (found := pattern.regex.match(path)) is not None:
            if found.lastgroup != "folder":
                return pattern
            above = above or pattern
    return above


def _regex(text: str) -> str:
    """Return the expression for a path; the group ``folder`` matches if a parent folder does."""
    segments = _segments(text)
    chunks = [
        "/".join(map(_segment, chunk)) for wild, chunk in groupby(segments, "**".__eq__) if not wild
    ]
    folder_only, leads = text.endswith("/"), segments[0] == "**"
    if not chunks:
        return ".*?(?P<folder>/)" if folder_only else ""
    *before, last = (f"(?>{chunk})" for chunk in chunks)
    anywhere = [leads, *(True for _ in before)]
    steps = [
        f"(?>(?:[^/]*/)*?{chunk}/)" if wild else f"(?>{chunk}/)"
        for chunk, wild in zip(before, anywhere, strict=False)
    ]
    steps.append(f"(?:.*/)?{last}" if anywhere[-1] else last)
    inside = "(?P<folder>/)" if folder_only else "/"
    return "".join(steps) + (inside if segments[-1] == "**" else r"(?:(?P<folder>/)|\Z)")


def _segments(text: str) -> list[str]:
    """Split at slashes; a pattern that matches at any depth gets a leading ``**``."""
    segments = text.split("/")
    if not segments[0]:
        del segments[0]
    elif segments[0] != "**" and not any(segments[1:]) and len(segments) <= 2:
        segments.insert(0, "**")
    if not segments:
        raise ValueError(f"{_NONE}: nothing follows its exclamation mark")
    if not segments[-1]:
        segments[-1] = "**"
    return segments


def _segment(glob: str) -> str:
    if glob == "*":
        return "[^/]+"
    first, *pieces = _pieces(glob)
    if not pieces:
        return first
    *middle, last = pieces
    found = "".join(f"(?>[^/]*?{piece})" for piece in middle if piece)
    return rf"(?>{first}{found}[^/]*{last}(?=/|\Z))"


def _pieces(glob: str) -> list[str]:
    pieces, at = [""], 0
    while at < len(glob):
        token = _TOKEN.match(glob, at)
        if token is None and glob[at] == "[":
            raise _Unclosed
        if token is None:
            raise ValueError(f"{_NONE}: it ends in a backslash")
        if token["star"]:
            pieces.append("")
        else:
            pieces[-1] += _character(token)
        at = token.end()
    return pieces


def _character(token: re.Match[str]) -> str:
    if token["any"]:
        return "[^/]"
    if token["set"]:
        return f"(?!/)[{'^' if token['but'] else ''}{_items(token['set'])}]"
    return re.escape(token["escaped"] or token["plain"])


def _items(content: str) -> str:
    items = []
    for item in _SET_ITEM.finditer(content):
        first, last = (item[1], item[2]) if item[3] is None else (item[3], item[3])
        if first > last:
            raise ValueError(f"{_NONE}: it has a range from {first!r} to {last!r}")
        items.append(f"{re.escape(first)}-{re.escape(last)}")
    return "".join(items)
