"""T16: the planted bugs whose tests are quick; ``make planted`` plants all of them."""

import pytest

from tests.planted.run import PROJECT, Plant, places, plants, tried

QUICK = [plant for plant in plants() if plant.tests.startswith("tests/unit")]


@pytest.mark.parametrize("plant", plants(), ids=lambda plant: plant.name)
def test_lines_of_planted_bug_are_in_exactly_one_place(plant: Plant) -> None:
    assert len(list(places(plant, PROJECT))) == 1


@pytest.mark.parametrize("plant", QUICK, ids=lambda plant: plant.name)
def test_a_planted_bug_is_caught(plant: Plant) -> None:
    assert tried(plant.tests, plant).failed, plant.what
