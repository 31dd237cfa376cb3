import pytest

from syncd.core.files.selection import Patterns, Rules, Skipped, is_current, judge
from syncd.types import Fingerprint, KnownFile, Verdict


def only(path: str, source: str) -> Patterns:
    """Return patterns that match *path* only."""
    return Patterns(source, lambda asked: asked if asked == path else None)


def reason(rules: Rules, rel_path: str, size: int = 10) -> str:
    judged = judge(rules, rel_path, size)
    assert isinstance(judged, Skipped)
    assert judged.verdict is Verdict.IGNORED
    return judged.reason


def known(verdict: Verdict, reason: str | None = None, model_path: str | None = None) -> KnownFile:
    return KnownFile(1, "loras/a.pt", Fingerprint(1, 2, 10, 4, 5), verdict, reason, model_path)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (
            Rules(exclude=only("loras/a.pt", "select.exclude")),
            "excluded by loras/a.pt (select.exclude)",
        ),
        (Rules(ignore=only("loras/a.pt", ".syncdignore")), "excluded by loras/a.pt (.syncdignore)"),
        (Rules(include=only("vae/a.pt", "select.include")), "matches no line of select.include"),
        (Rules(types=frozenset({"vae"})), "type loras is not in select.types"),
        (Rules(max_file_size=9), "larger than limits.max_file_size, 9 bytes"),
        (Rules(endings=frozenset({".ckpt"})), "not a model ending: .pt"),
    ],
)
def test_skipped_file_quotes_rule(rules: Rules, expected: str) -> None:
    assert reason(rules, "loras/a.pt") == expected


def test_patterns_see_type_of_typed_root_and_ignore_lines_do_not() -> None:
    rules = Rules(type_key="loras", exclude=only("loras/a.pt", "x"), ignore=only("b.pt", "y"))

    assert reason(rules, "a.pt") == "excluded by loras/a.pt (x)"
    assert reason(rules, "b.pt") == "excluded by b.pt (y)"


def test_shadowed_file_quotes_file_that_comfyui_loads() -> None:
    judged = judge(
        Rules(), "loras/a.pt", 10, loaded_instead=lambda rel_path: f"/extra/\x1b{rel_path}"
    )

    assert judged == Skipped(
        Verdict.SHADOWED, "ComfyUI loads /extra/\\x1bloras/a.pt under this name"
    )


def test_refused_file_has_printable_reason() -> None:
    judged = judge(Rules(), "loras/caf\udce9.pt", 10)

    assert isinstance(judged, Skipped)
    assert judged.verdict is Verdict.REFUSED
    assert judged.model_path == "models/loras/caf\\udce9.pt"
    assert judged.reason.isprintable()


TAKEN = judge(Rules(), "loras/a.pt", 10)


@pytest.mark.parametrize(
    "verdict", [Verdict.WANTED, Verdict.CONFLICT, Verdict.UNREADABLE, Verdict.INCOMPLETE]
)
def test_known_file_is_current_while_its_target_is_the_same(verdict: Verdict) -> None:
    assert is_current(TAKEN, known(verdict, model_path="models/loras/a.pt"))
    assert not is_current(TAKEN, known(verdict, model_path="models/loras/b.pt"))


@pytest.mark.parametrize("verdict", [Verdict.IGNORED, Verdict.REFUSED, Verdict.SHADOWED])
def test_known_skipped_file_that_is_selected_now_is_not_current(verdict: Verdict) -> None:
    assert not is_current(TAKEN, known(verdict, "reason", "models/loras/a.pt"))
