"""Patterns in gitignore syntax, compared with ``pathspec``, and the cost of hostile ones."""

import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pathspec import GitIgnoreSpec

from syncd.core.files.gitignore import (
    PATTERN_MAX,
    PATTERNS_MAX,
    BadLine,
    deciding,
    parse,
    parse_all,
)


@pytest.mark.parametrize(
    ("line", "matched", "passed"),
    [
        ("a*b*c", ["abc", "a1b2c", "aabbcc", "abcbc"], ["acb", "ab", "a/b/c"]),
        ("[a-c]x", ["bx"], ["dx", "-x"]),
        ("[!ab]x", ["cx"], ["ax", "/x"]),
        ("[]a]x", ["]x", "ax"], ["bx"]),
        ("[[&|~a]x", ["[x", "&x", "|x", "~x", "ax"], ["bx"]),
    ],
)
def test_pattern_matches_as_git_does(line: str, matched: list[str], passed: list[str]) -> None:
    pattern = parse(line)

    assert pattern is not None
    assert [path for path in matched if not pattern.regex.match(path)] == []
    assert [path for path in passed if pattern.regex.match(path)] == []


@pytest.mark.parametrize("line", ["", "  ", "# a", "/", "a[b", "[]", "[!]"])
def test_line_without_a_pattern_is_none(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize("line", ["!", "a\\", "a\\/", "[z-a]", "a" * (PATTERN_MAX + 1)])
def test_line_that_is_no_pattern_raises_with_its_number(line: str) -> None:
    with pytest.raises(BadLine, match=r"\(2, .is ") as caught:
        parse_all(["a", line])

    assert caught.value.number == 2


def test_too_many_patterns_raise_with_the_first_line_beyond() -> None:
    lines = ["# many", *["a"] * PATTERNS_MAX]

    assert len(parse_all(lines)) == PATTERNS_MAX
    with pytest.raises(BadLine) as caught:
        parse_all([*lines, "b"])
    assert caught.value.number == PATTERNS_MAX + 2


names = st.text("ab.*", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=5).map("/".join)
globs = st.lists(
    st.sampled_from(["a", "b", ".", "*", "?", "[ab]", "[a-b]", "[]b]", "\\*", "**"]), max_size=4
).map("".join)
lines = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "!", "/", "!/", "#", " "]),
    st.lists(globs | st.just("**"), min_size=1, max_size=4).map("/".join),
    st.sampled_from(["", "", "/", "/**"]),
    st.sampled_from(["", "", " ", "\\ ", "\\", "["]),
)


@given(lines=st.lists(lines, min_size=1, max_size=4), path=paths)
@example(lines=["**/*.*/**/a"], path="b/.a/b/a")
@example(lines=["a/**/a/b", "!b/"], path="a/a/b/b")
def test_deciding_line_equals_that_of_pathspec(lines: list[str], path: str) -> None:
    try:
        theirs = GitIgnoreSpec.from_lines(lines).check_file(path)
    except ValueError:
        with pytest.raises(BadLine):
            parse_all(lines)
        return
    pattern = deciding(parse_all(lines), path)

    assert pattern == (None if theirs.index is None else parse_all(lines[theirs.index :])[0])


@given(
    pattern=st.lists(
        st.sampled_from(["*a", "a", "?", "[ab]", "*", "/", "/**/", "**/", "b"]), max_size=40
    ).map("".join),
    path=st.lists(st.sampled_from(["a", "aa/", "ab", "a/"]), min_size=1, max_size=3).map("".join),
    end=st.sampled_from(["", "b", "c", "/b"]),
)
@example(pattern="*a*a*a*a*a*a*a*a*b", path="a", end="")
@example(pattern="**/a/**/a/**/a/**/a/**/a/**/b", path="a/", end="c")
@example(pattern="*a" * 500, path="a", end="b")
@example(pattern="a/" * 20 + "b", path="a/", end="c")
@pytest.mark.timeout(120)
def test_I33_pattern_match_time_is_bounded(pattern: str, path: str, end: str) -> None:
    try:
        parsed = parse_all([pattern])
    except BadLine:
        assume(False)
    long = (path * 4096)[:4096].rstrip("/") + end
    times = []
    for _ in range(3):
        started_s = time.thread_time()
        deciding(parsed, long)
        times.append(time.thread_time() - started_s)

    steps = (len(pattern) + 10) * len(long)
    assert min(times) < 0.01 + steps * 1e-6, f"{min(times):.3f} s for {steps} steps"
