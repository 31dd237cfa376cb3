"""T16: the quick ones of the planted bugs; ``make planted`` plants all."""

from pathlib import Path

import pytest

from tests.planted.run import Plant, apply, caught, copied, plants

QUICK = [plant for plant in plants() if plant.layer == "T1"]


def test_each_planted_bug_fits_the_code_as_it_is(tmp_path: Path) -> None:
    for plant in plants():
        folder = tmp_path / plant.path.stem
        folder.mkdir()
        before = sources(copied(folder))
        apply(plant, folder / "copy")

        assert sources(folder / "copy") != before, plant.path.name


def sources(copy: Path) -> dict[Path, str]:
    return {path.relative_to(copy): path.read_text() for path in copy.glob("syncd/**/*.py")}


@pytest.mark.parametrize("plant", QUICK, ids=lambda plant: plant.path.stem)
def test_a_planted_bug_is_caught(plant: Plant) -> None:
    assert caught(plant), plant.what
