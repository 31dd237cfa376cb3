"""Describes the values that each setting accepts, from the JSON schema of the settings."""

from functools import cache
from typing import Any

from syncd.config.settings import Settings

_NOUNS = {
    "path": "a path",
    "size": "a size such as 500MB or 4 GiB, in bytes",
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list of texts",
    "object": "a table of texts",
}


def expected(key: str) -> str:
    """Describe a valid value of *key*, to follow "must be"."""
    found = _schema_at(key)
    if "enum" in found:
        *names, last = found["enum"]
        return f"{', '.join(names)} or {last}"
    noun = _NOUNS.get(found.get("format", ""), _NOUNS[found["type"]])
    return f"{noun} {_bounds(found)}".rstrip()


def _bounds(found: dict[str, Any]) -> str:
    """``0 to 10``, ``above 0``, or nothing."""
    low, high, above = (found.get(name) for name in ("minimum", "maximum", "exclusiveMinimum"))
    if low is not None and high is not None:
        return f"{low:.15g} to {high:.15g}"
    named = (("from", low), ("above", above), ("at most", high))
    return ", ".join(f"{name} {bound:.15g}" for name, bound in named if bound is not None)


@cache
def _schema() -> dict[str, Any]:
    return Settings.model_json_schema()


def _schema_at(key: str) -> dict[str, Any]:
    """Return the JSON schema of one setting, without ``null``."""
    found = schema = _schema()
    for name in key.split("."):
        found = found["properties"][name]
        while "$ref" in found:
            found = schema["$defs"][found["$ref"].rpartition("/")[2]]
    options: list[dict[str, Any]] = found.get("anyOf", [found])
    return next(option for option in options if option.get("type") != "null")
