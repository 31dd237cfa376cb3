"""T5: kill -9 at the k-th executed line of the program, then once more from the start."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.lanes import each
from tests.crash.scenario import Theatre
from tests.scale import SCALE, SEED

pytestmark = pytest.mark.crash

POINTS = SCALE.kill_points
"""Kills in all."""

Moment = tuple[str, int, int]
"""File, line, and which execution of it."""

AGAIN: tuple[tuple[bool, Moment], ...] = ()
"""Moments that once cost something, and whether their scene began with nothing."""


def executed(theatre: Theatre, *, fresh: bool) -> list[Moment]:
    """How often the scenario executes each line of the program."""
    with theatre.scene(fresh=fresh) as scene:
        assert scene.run(count=True) == 0, scene.said()
        counts = json.loads(Path(f"{scene.out}.lines").read_text())
    return [(file, line, n) for file, line, n in sorted(counts)]


def moments(lines: list[Moment], draw: random.Random) -> Iterator[Moment]:
    """One execution of each line in any order, then one more of each, and so on."""
    while True:
        for file, line, n in draw.sample(lines, len(lines)):
            yield file, line, draw.randint(1, n)


def chosen(theatre: Theatre, *, fresh: bool) -> list[Moment]:
    lines = executed(theatre, fresh=fresh)
    wanted = moments(lines, random.Random(SEED))
    return [next(wanted) for _ in range(POINTS // 2)]


def kill(theatre: Theatre, moment: Moment, *, fresh: bool) -> bool:
    """Was the moment met? Threads interleave, so an execution more or less may be lacking."""
    with theatre.scene(fresh=fresh) as scene:
        code = scene.run(kill_at=moment)
        assert code in (0, -9), scene.said()
        scene.require_recovered()
    return code == -9


@pytest.mark.parametrize("fresh", [True, False], ids=["first-run", "later-run"])
def test_I06_a_kill_at_any_line_costs_nothing(
    theatre: Theatre, fresh: bool, request: pytest.FixtureRequest
) -> None:
    points = [moment for begins, moment in AGAIN if begins is fresh]
    points += chosen(theatre, fresh=fresh)
    met = each(lambda moment: kill(theatre, moment, fresh=fresh), points, request)

    assert sum(met) > 0.98 * len(met)
