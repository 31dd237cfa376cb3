"""Properties of printed and logged text."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from syncd.monitoring import log
from syncd.types import printable

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
