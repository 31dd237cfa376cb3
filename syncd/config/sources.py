"""Reads values and their origins from the TOML file and the environment."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_settings import EnvSettingsSource

from syncd.config.settings import KEYS, VARIABLES, Settings
from syncd.errors import ConfigError
from syncd.types import printable

DEFAULT = "default"
"""Origin of a value that is not set."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value and its origin: ``flag``, a variable's name or ``file:line``."""

    value: object
    origin: str


def from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """Return the values of the ``SYNCD_`` variables; an unknown one keeps its name as key."""
    ours = {name: value for name, value in environ.items() if name.startswith("SYNCD_")}
    source = EnvSettingsSource(Settings)
    source.env_vars = {n.lower(): v for n, v in ours.items() if n in VARIABLES and v}
    values = dict(_flat(source()))
    given = {key: Given(values[key], name) for name, key in VARIABLES.items() if key in values}
    return given | {name: Given(None, "environment") for name in ours if name not in VARIABLES}


def from_toml(path: Path) -> dict[str, Given]:
    """
    Read the values of the file once, so that the line numbers match.

    Raises:
        ConfigError: The file cannot be read or is not TOML (with line and column).
    """
    import tomllib  # not needed if all settings come from the environment

    name = printable(str(path))
    try:
        text = path.read_bytes().decode()
        values = dict(_flat(tomllib.loads(text)))
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_error(name, text, str(error))) from None
    lines = _lines(text)
    return {key: Given(value, _place(name, key, lines)) for key, value in values.items()}


def _syntax_error(name: str, text: str, message: str) -> str:
    """Format as ``file:line:column: message``, which editors understand."""
    what, _, place = message.rpartition(" (at ")
    found = re.findall(r"\d+", place)
    if len(found) != 2:  # "at end of document"
        rows = text.split("\n")
        found = [str(len(rows)), str(len(rows[-1]) + 1)]
    return f"{name}:{found[0]}:{found[1]}: not valid TOML: {printable(what)}"


_HEADER = re.compile(r"\s*\[\[?([^\[\]#]+)\]")
_ASSIGNMENT = re.compile(r"""\s*((?:[\w.\s-]|"[^"]*"|'[^']*')+?)\s*=""")


def _lines(text: str) -> dict[str, int]:
    """
    Find the line number of each section and key, which ``tomllib`` does not keep.

    A multi-line string can mislead this, which only makes a line number in a message wrong.
    """
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            table = _bare(header[1])
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            lines.setdefault(f"{table}.{_bare(assignment[1])}".lstrip("."), number)
    return lines


def _bare(key: str) -> str:
    return re.sub(r"[\s\"']", "", key)


def _place(name: str, key: str, lines: Mapping[str, int]) -> str:
    """Return ``file:line`` of *key* or of the inline table around it."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f"{name}:{lines[key]}" if key else name


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Flatten nested tables to dotted keys; the value of a known key is kept as it is."""
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, dict) and key not in KEYS and (value or is_section(key)):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def is_section(key: str) -> bool:
    return any(known.startswith(f"{key}.") for known in KEYS)
