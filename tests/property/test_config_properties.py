"""Errors about wrong settings never contain phrases of pydantic."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_core._pydantic_core import list_all_errors

from syncd.config.loader import load
from syncd.config.settings import KEYS, VARIABLES
from syncd.errors import ConfigError


def phrases() -> Iterator[str]:
    """Return the fixed parts of all pydantic messages with two or more words."""
    for error in list_all_errors():
        for template in (error["message_template_python"], error.get("message_template_json", "")):
            for part in re.split(r"\{[^}]*\}", template):
                yield part.strip(" ,.:").lower().removeprefix("input ")


FOREIGN = sorted({part for part in phrases() if " " in part} | {"pydantic", "input", "undefined"})
"""Phrases that no message may contain."""

WRONG: tuple[Any, ...] = (
    "", "x", " ", "-1", "1e999", "nan", "[", "{", "{}", "a,b", "http://[", "://", "\0", "~nobody/x",
    "08:00", "5 GX", "99999999999999999999", -1, 0, 1, 10**30, 0.5, -0.5, float("nan"),
    float("inf"), True, False, [], ["x"], [1], [["x"]], [""], {}, {"a": 1}, {"a": "b"}, {"": ""},
)  # fmt: skip
"""Values of every kind; most are wrong for most settings."""


def message(overrides: dict[str, Any], environ: dict[str, str] | None = None) -> str:
    """Return the error for a configuration; empty if it is valid."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_text("models_dir = '/models'\n")
        state = {"STATE_DIRECTORY": f"{folder}/state"}
        try:
            load(file, overrides, state | (environ or {}))
        except ConfigError as error:
            return str(error)
    return ""


def foreign(text: str) -> list[str]:
    """Return the pydantic phrases in *text*, without the words of a setting's description."""
    return [phrase for phrase in FOREIGN if phrase in text.lower()]


@pytest.mark.parametrize("key", KEYS)
def test_error_about_wrong_value_has_no_pydantic_phrase(key: str) -> None:
    said = [message({key: value}) for value in WRONG]
    variable = next(name for name, known in VARIABLES.items() if known == key)
    said += [
        message({}, {variable: value})
        for value in WRONG
        if isinstance(value, str) and "\0" not in value
    ]

    assert [foreign(text) for text in said if foreign(text)] == []
    assert any(said), "none of these is wrong for it"
    assert all(text.startswith("--") for text in said[: len(WRONG)] if text and key not in text)
