"""T4: a backfill ends when the queue is empty, and not before."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from unittest import mock

from tests.matrix.stage import SMALL, Stage, play
from tests.oracle import check
from tests.simulation import life as lives

P = ParamSpec("P")
T = TypeVar("T")

QUIET_S = 5
LATE_S = QUIET_S + 1.0


class Late(lives._Inline):
    """Answers late when the next job is due; a job has arrived in between."""

    async def db(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        answer = await super().db(function, *args, **kwargs)
        if function.__name__ == "next_due_ms":
            await asyncio.sleep(LATE_S)
        return answer


def test_backfill_with_a_late_job_does_not_end_early() -> None:
    async def scenario(stage: Stage) -> None:
        stage.write(SMALL)
        stage.start(once=True)

        assert await stage.ended() == 0
        assert stage.registered(SMALL), stage.report()
        check(stage.evidence({f"models/{SMALL}": stage.sha256(SMALL)}))

    with mock.patch.object(lives, "_Inline", Late):
        play(scenario, settings={"settle": {"quiet_s": QUIET_S, "quiet_closed_s": QUIET_S}})
