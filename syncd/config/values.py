"""Describes the values that each setting accepts, from the JSON schema of the settings."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from syncd.config.settings import Settings


def expected(key: str) -> str:
    """Describe a valid value of *key*, to follow "must be"."""
    found = schema_at(key)
    if "enum" in found:
        *names, last = found["enum"]
        return f"{', '.join(names)} or {last}"
    return " ".join(filter(None, [_NOUNS[_kind(found)], bounds(found)]))


def values_of(key: str) -> str:
    """Describe kind and bounds of *key*, for a table."""
    found = schema_at(key)
    if "enum" in found:
        return ", ".join(map(str, found["enum"]))
    return " ".join(filter(None, [_kind(found), bounds(found)]))


_NOUNS: Mapping[str, str] = {
    "path": "a path",
    "size": "a size such as 500MB or 4 GiB, in bytes",
    "text": "text",
    "true, false": "true or false",
    "whole number": "a whole number",
    "number": "a number",
    "list": "a list of texts",
    "table": "a table of texts",
}


def _kind(found: Mapping[str, Any]) -> str:
    return {
        "string": "path" if found.get("format") == "path" else "text",
        "boolean": "true, false",
        "integer": "size" if found.get("format") == "size" else "whole number",
        "number": "number",
        "array": "list",
        "object": "table",
    }[found["type"]]


def bounds(found: Mapping[str, Any]) -> str:
    """``0 to 10``, ``above 0``, or nothing."""
    low, high, above = (found.get(name) for name in ("minimum", "maximum", "exclusiveMinimum"))
    start = (
        f"above {above:.15g}"
        if above is not None
        else f"from {low:.15g}"
        if low is not None
        else ""
    )
    if high is None:
        return start
    if low is not None:
        return f"{low:.15g} to {high:.15g}"
    return f"{start}{', ' if start else ''}at most {high:.15g}"


@cache
def _schema() -> dict[str, Any]:
    return Settings.model_json_schema()


def schema_at(key: str) -> dict[str, Any]:
    """Return the JSON schema of one setting, without ``null``."""
    found = schema = _schema()
    for name in key.split("."):
        found = found["properties"][name]
        while "$ref" in found:
            found = schema["$defs"][found["$ref"].rpartition("/")[2]]
    options: list[dict[str, Any]] = found.get("anyOf", [found])
    return next(option for option in options if option.get("type") != "null")
