"""Properties of printed and logged text."""

from hypothesis import given
from hypothesis import strategies as st

from syncd.types import printable

anything = st.text(st.characters(), max_size=20)


@given(anything)
def test_printable_text_is_one_line_and_idempotent(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable()
    assert printable(shown) == shown
    assert not text.isprintable() or shown == text
    shown.encode()
