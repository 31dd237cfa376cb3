"""Properties of printed and logged text and of extra_model_paths.yaml."""

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from syncd.config.extra_paths import extra_folders
from syncd.config.loader import load
from syncd.config.settings import Settings
from syncd.errors import ConfigError
from syncd.monitoring import log
from syncd.types import printable
from tests.memory import folder

anything = st.text(st.characters(), max_size=20)


@given(anything)
def test_printable_text_is_one_line_and_idempotent(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable()
    assert printable(shown) == shown
    assert not text.isprintable() or shown == text
    shown.encode()


# --- the log

SECRETS = [
    "dk-CANARY00000",
    "eyJhbGciOiJub25lIn0.eyJleHAiOjB9.CANARY",
    "Authorization: Bearer CANARY",
    "https://s3.example.com/k?X-Amz-Signature=CANARY",
    "http://me:CANARY@proxy:1/",
    "X-Amz-Security-Token=CANARY",
]
edges = st.sampled_from(["", " ", '"', "'", "\n", "(", ", ", "\x1b[0m", "é "])
secrets = st.builds("{}{}{}".format, edges, st.sampled_from(SECRETS), edges)
nested = st.recursive(
    secrets | secrets.map(RuntimeError) | st.just(3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.tuples(inner)
        | st.dictionaries(
            st.sampled_from(["reason", "url", "headers"]) | secrets, inner, max_size=2
        )
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module", autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, config = logging.getLogger(), structlog.get_config()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], root.level, logging.raiseExceptions = before
    structlog.configure(**config)


@given(nested, secrets, st.sampled_from(["json", "console"]), st.booleans())
def test_I22_log_of_nested_values_contains_no_secret_and_one_line(
    value: Any, text: str, form: Any, foreign: bool
) -> None:
    stream = io.StringIO()
    log.configure(format=form, stream=stream)
    if foreign:
        logging.getLogger("other").warning("%s failed: %s", text, value)
    else:
        structlog.get_logger("syncd").warning(text, value=value)

    written = stream.getvalue()
    assert "CANARY" not in written
    assert written.count("\n") == 1
    assert written[:-1].isprintable()
    if form == "json":
        json.loads(written)


# --- extra_model_paths.yaml


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with folder() as made:
        yield made


@pytest.fixture(scope="module")
def settings(place: Path) -> Settings:
    (place / "extra.yaml").write_text("")
    values = {
        "models_dir": str(place / "models"),
        "comfyui.extra_model_paths": str(place / "extra.yaml"),
    }
    return load("/dev/null", values, {}).settings


bits = st.sampled_from(
    [
        "a:", "\n", "  ", "loras: ", "base_path: ", "~", "$HOME/x", "is_default: true", "é", "\x07",
        "|\n    x\n    y", "[", "]", "{", "- ", "&a ", "*a", "!!python/name:os.system ", "2026-02-30",
        '"\\0"', "<<: *a", "? ", "0x", "..", "/",
    ]
)  # fmt: skip


@given(st.lists(bits, max_size=14).map("".join))
def test_yaml_is_refused_in_one_sentence_or_has_absolute_paths(
    settings: Settings, place: Path, text: str
) -> None:
    (place / "extra.yaml").write_text(text, "utf-8")
    said: list[ConfigError] = []
    folders = []
    try:
        folders = extra_folders(settings)
    except ConfigError as error:
        said.append(error)
    assert all(str(error).isprintable() for error in said)
    for each in folders:
        assert os.path.isabs(each.path)
        assert os.path.normpath(each.path) == each.path
        assert "/" not in each.type_key


keys = st.sampled_from(["loras", "clip", "text_encoders", "mine"])
relatives = st.sampled_from(["x", "y/z", "./x", "y/../x", "models/loras"])
sections = st.dictionaries(keys, st.lists(relatives, min_size=1, max_size=3), max_size=3)


@given(st.lists(st.tuples(sections, st.none() | relatives, st.booleans()), max_size=3))
def test_yaml_lines_become_folders_in_order(
    settings: Settings, place: Path, written: list[tuple[dict[str, list[str]], str | None, bool]]
) -> None:
    document, expected = {}, []
    for number, (types, base, first) in enumerate(written):
        above = {"base_path": base} if base else {}
        document[f"s{number}"] = {
            **above,
            "is_default": first,
            **{k: "\n".join(v) for k, v in types.items()},
        }
        for key, lines_ in types.items():
            expected += [
                (key, os.path.normpath(place / (base or "") / line), first) for line in lines_
            ]
    (place / "extra.yaml").write_text(json.dumps(document), "utf-8")

    folders = extra_folders(settings)

    assert [(each.path, each.is_default) for each in folders] == [(p, d) for _, p, d in expected]
    for each, (key, *_) in zip(folders, expected, strict=True):
        assert each.kind == {"clip": "text_encoders"}.get(key, key)
        assert each.top in (None, "loras") or each.real.endswith(f"models/{each.top}")
