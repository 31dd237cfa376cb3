"""T16: the planted bugs whose tests are quick; ``make planted`` plants all of them."""

import pytest

from tests.planted.run import PROJECT, Plant, Tried, is_caught, places, plants, tried

QUICK = [plant for plant in plants() if plant.tests.startswith("tests/unit")]


@pytest.mark.parametrize("plant", plants(), ids=lambda plant: plant.name)
def test_lines_of_planted_bug_are_in_exactly_one_place(plant: Plant) -> None:
    assert len(list(places(plant, PROJECT))) == 1


@pytest.mark.parametrize("plant", QUICK, ids=lambda plant: plant.name)
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
