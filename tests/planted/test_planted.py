"""T16: the quick ones of the planted bugs; ``make planted`` plants all."""

from pathlib import Path

import pytest

from tests.planted.run import Plant, Tried, apply, copied, is_caught, plants, tried

QUICK = [plant for plant in plants() if plant.layer == "T1"]


@pytest.mark.needs("git")
def test_each_planted_bug_fits_the_code_as_it_is(tmp_path: Path) -> None:
    for plant in plants():
        folder = tmp_path / plant.path.stem
        folder.mkdir()
        before = sources(copied(folder))
        apply(plant, folder / "copy")

        assert sources(folder / "copy") != before, plant.path.name


def sources(copy: Path) -> dict[Path, str]:
    return {path.relative_to(copy): path.read_text() for path in copy.glob("syncd/**/*.py")}


def test_T16_thirty_bugs_are_planted_and_each_names_the_tests_of_a_layer() -> None:
    assert len(plants()) >= 30
    assert all(plant.layer for plant in plants())


@pytest.mark.needs("git")
@pytest.mark.parametrize("plant", QUICK, ids=lambda plant: plant.path.stem)
def test_a_planted_bug_is_caught(plant: Plant) -> None:
    assert tried(plant.tests, plant).failed, plant.what


PASSES, FAILS = Tried(None, 0.0), Tried("tests/unit/test_parts.py::test_it", 0.0)
UNTRIED = Tried(None, 0.0, "pytest ended with 4")


@pytest.mark.parametrize(
    ("plant", "control", "caught"),
    [
        (FAILS, PASSES, True),
        (PASSES, PASSES, False),
        (FAILS, FAILS, False),
        (UNTRIED, PASSES, False),
        (FAILS, UNTRIED, False),
    ],
)
def test_a_bug_counts_only_if_its_tests_fail_with_it_and_pass_without(
    plant: Tried, control: Tried, caught: bool
) -> None:
    assert is_caught(plant, control) is caught
