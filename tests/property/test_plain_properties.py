"""The plain table renderer writes what rich writes without a terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from syncd.cli import plain, render
from syncd.cli.tables import Line, Sheet, Styled, Told

WORDS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
ANY = (
    WORDS | st.text(max_size=6) | st.sampled_from(["é", "模型", "a\nb", "\x1b[1m", "[red]x[/red]"])
)
STYLES = st.sampled_from(["", "red", "bold red", "dim"])


def lines(words: st.SearchStrategy[str]) -> st.SearchStrategy[Line]:
    return st.builds(Line, words, STYLES)


@st.composite
def sheets(draw: st.DrawFn, words: st.SearchStrategy[str]) -> Sheet:
    columns = draw(
        st.lists(st.sampled_from(["file", "size", "state", "reason"]), min_size=1, max_size=4)
    )
    cell = words | st.builds(Styled, words, STYLES)
    rows = draw(st.lists(st.tuples(*[cell] * len(columns)), max_size=4))
    return Sheet(draw(st.sampled_from(["In it", "Not in the catalog"])), tuple(columns), rows)


def told(words: st.SearchStrategy[str]) -> st.SearchStrategy[list[Told]]:
    return st.lists(lines(words) | sheets(words), max_size=3)


def drawn(each: list[Told]) -> str:
    screen = Console(file=io.StringIO(), width=plain.UNWRAPPED)
    render.show(screen, each)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


@given(told(WORDS) | told(ANY))
def test_plain_table_equals_rich_output(each: list[Told]) -> None:
    try:
        text = plain.text(each)
    except plain.Unfit:
        return

    assert text == drawn(each)


@pytest.mark.parametrize(
    "each",
    [
        Line("a\x1b[1mb"),
        Line("x" * plain.UNWRAPPED),
        Sheet("t", ("file",), [("模型",)]),
        Sheet("t", ("file",), [("a\nb",)]),
        Sheet("longer than its table", ("file",), []),
    ],
)
def test_what_needs_the_width_of_characters_is_left_to_rich(each: Told) -> None:
    with pytest.raises(plain.Unfit):
        plain.text([each])


def test_the_usual_fits() -> None:
    each: list[Told] = [
        Sheet("Not in it", ("file", "size"), [("a.pt", "1 B")]),
        Line("… and 1 more", "dim"),
    ]

    assert plain.text(each) == "Not in it \nfile  size\na.pt   1 B\n… and 1 more\n" == drawn(each)
