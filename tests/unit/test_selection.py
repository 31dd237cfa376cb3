from dataclasses import replace

import pytest

from syncd.core.files.selection import Patterns, Rules, Selected, Skipped, judge, stands
from syncd.types import Fingerprint, KnownFile, Verdict


def only(path: str, source: str) -> Patterns:
    """A pattern that one path alone matches, under its own name."""
    return Patterns(source, lambda asked: asked if asked == path else None)


def reason(rules: Rules, rel_path: str, size: int = 10) -> str:
    judged = judge(rules, rel_path, size)
    assert isinstance(judged, Skipped)
    assert judged.verdict is Verdict.IGNORED
    return judged.reason


def known(verdict: Verdict, reason: str | None = None, model_path: str | None = None) -> KnownFile:
    return KnownFile(1, "loras/a.pt", Fingerprint(1, 2, 10, 4, 5), verdict, reason, model_path)


def test_a_wanted_file_comes_with_its_target_and_the_ending_that_took_it() -> None:
    judged = judge(Rules(), "loras/sub/A.PT", 10)

    assert isinstance(judged, Selected)
    assert judged.target.model_path == "models/loras/sub/A.PT"
    assert judged.rule == "ending .pt"


def test_the_line_that_included_a_file_is_named() -> None:
    rules = Rules(include=only("loras/a.pt", "select.include"))
    judged = judge(rules, "loras/a.pt", 10)

    assert isinstance(judged, Selected)
    assert judged.rule == "included by loras/a.pt (select.include)"


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
def test_each_rule_that_leaves_a_file_out_is_named(rules: Rules, expected: str) -> None:
    assert reason(rules, "loras/a.pt") == expected


def test_a_file_of_exactly_the_largest_size_is_taken() -> None:
    assert isinstance(judge(Rules(max_file_size=10), "loras/a.pt", 10), Selected)


def test_no_rule_brings_in_a_name_that_is_never_taken() -> None:
    rules = Rules(include=only("loras/.a.pt", "select.include"))

    assert reason(rules, "loras/.a.pt") == "hidden or temporary name"


def test_in_a_root_of_one_type_patterns_see_the_type_and_ignore_lines_do_not() -> None:
    rules = Rules(type_key="loras", exclude=only("loras/a.pt", "x"), ignore=only("b.pt", "y"))

    assert reason(rules, "a.pt") == "excluded by loras/a.pt (x)"
    assert reason(rules, "b.pt") == "excluded by b.pt (y)"


def test_a_shadowed_file_names_the_one_that_comfyui_loads() -> None:
    judged = judge(Rules(), "loras/a.pt", 10, instead=lambda rel_path: f"/extra/\x1b{rel_path}")

    assert judged == Skipped(
        Verdict.SHADOWED, "ComfyUI loads /extra/\\x1bloras/a.pt under this name"
    )


def test_a_refused_file_keeps_its_reason_and_can_be_shown() -> None:
    judged = judge(Rules(), "loras/caf\udce9.pt", 10)

    assert isinstance(judged, Skipped)
    assert judged.verdict is Verdict.REFUSED
    assert judged.model_path == "models/loras/caf\\udce9.pt"
    assert judged.reason.isprintable()


TAKEN = judge(Rules(), "loras/a.pt", 10)


@pytest.mark.parametrize(
    "verdict", [Verdict.WANTED, Verdict.CONFLICT, Verdict.UNREADABLE, Verdict.INCOMPLETE]
)
def test_a_file_that_would_go_where_it_went_is_left_as_it_is(verdict: Verdict) -> None:
    assert stands(TAKEN, known(verdict, model_path="models/loras/a.pt"))
    assert not stands(TAKEN, known(verdict, model_path="models/loras/b.pt"))


@pytest.mark.parametrize("verdict", [Verdict.IGNORED, Verdict.REFUSED, Verdict.SHADOWED])
def test_a_file_that_was_passed_over_and_is_wanted_now_is_judged_afresh(verdict: Verdict) -> None:
    assert not stands(TAKEN, known(verdict, "reason", "models/loras/a.pt"))


def test_a_file_that_is_passed_over_for_the_same_reason_stays_so() -> None:
    passed = Skipped(Verdict.IGNORED, "reason")

    assert stands(passed, known(Verdict.IGNORED, "reason"))
    assert not stands(passed, known(Verdict.IGNORED, "another"))
    assert not stands(passed, known(Verdict.WANTED, None, "models/loras/a.pt"))


def test_with_nothing_set_all_types_and_sizes_are_taken() -> None:
    for rel_path in ("ultralytics/bbox/x.pt", "any thing/x.gguf"):
        assert isinstance(judge(replace(Rules(), digest="x"), rel_path, 10**12), Selected)
