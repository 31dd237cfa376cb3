import re
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.files.naming import Refusal, target_of
from syncd.types import Target, printable

# The documented pattern of the server, independent of the one under test.
SERVER = re.compile(r"(?!/)(?!.*\.\.)(?!.*\\)[A-Za-z0-9_./ -]+")

names = st.text(
    st.sampled_from("abcXYZ019_.- /")
    | st.characters(codec="utf-8")
    | st.characters(categories=["Cs"]),
    min_size=1,
    max_size=300,
)


@given(names)
def test_target_matches_server_pattern_or_refusal_is_printable(rel_path: str) -> None:
    answer = target_of(rel_path, prefix="models/")

    if isinstance(answer, Refusal):
        assert answer.offending
        assert answer.offending.isprintable()
        assert answer.reason.isprintable()
    else:
        assert SERVER.fullmatch(answer.model_path)
        assert answer.model_path == f"models/{rel_path}"
        assert answer.model_path.startswith(f"models/{answer.model_type}/")
        assert answer.model_path.endswith(f"/{answer.file_name}")
        assert 1 <= len(answer.model_type) <= 50
        assert 1 <= len(answer.display_name) <= 255
        assert len(answer.model_path.encode()) <= 1000
        for segment in answer.model_path.split("/"):
            assert segment not in ("", ".", "..")
            assert segment.strip() == segment
            assert len(segment.encode()) <= 255


plain = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)


@given(plain, st.lists(plain, max_size=4), plain)
def test_ordinary_name_is_accepted(top: str, folders: list[str], name: str) -> None:
    rel_path = "/".join([top, *folders, f"{name}.safetensors"])

    assert not isinstance(target_of(rel_path, prefix="models/"), Refusal)


@given(names)
def test_suggested_naming_line_makes_file_acceptable(rel_path: str) -> None:
    refusal = target_of(rel_path, prefix="models/")

    if isinstance(refusal, Refusal) and refusal.remedy is not None:
        line = tomllib.loads(refusal.remedy)
        assert isinstance(target_of(rel_path, prefix="models/", names=line), Target)


@given(st.text(st.characters(), max_size=20))
def test_printable_text_is_one_line_and_idempotent(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable()
    assert printable(shown) == shown
    assert not text.isprintable() or shown == text
    shown.encode()
