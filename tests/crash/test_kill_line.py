"""T5: kill -9 at the k-th executed line of the program, then once more from the start."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.lanes import each
from tests.crash.scenario import Theatre

pytestmark = pytest.mark.crash

POINTS = os.environ.get("SYNCD_KILL_POINTS", "600")
"""Kills in all, or ``all``: every execution of every line."""
SEED = int(os.environ.get("SYNCD_SEED", "1"))

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
    if POINTS == "all":
        yield from ((file, line, k) for file, line, n in lines for k in range(1, n + 1))
        return
    while True:
        for file, line, n in draw.sample(lines, len(lines)):
            yield file, line, draw.randint(1, n)


def chosen(theatre: Theatre, *, fresh: bool) -> list[Moment]:
    lines = executed(theatre, fresh=fresh)
    wanted = moments(lines, random.Random(SEED))
    if POINTS == "all":
        return list(wanted)
    return [next(wanted) for _ in range(int(POINTS) // 2)]


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
