"""A job that is claimed again while the worker that gave it back still ends."""

import asyncio
from functools import partial
from typing import Any

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.types import Call
from tests.matrix.stage import LARGE, SMALL, Stage, play
from tests.oracle import check
from tests.simulation import life

SLOW_S = 30.0
"""After the commit that gives a job back, until its worker learns of it."""


class _SlowRetry(life._Inline):
    """Commits at once, but reports a retry late."""

    async def _commit(self, call: "partial[Any]") -> Any:
        done = await super()._commit(call)
        if call.func.__name__ == "retry":
            await asyncio.sleep(SLOW_S)
        return done


def test_I14_job_claimed_again_before_its_last_run_ended_finishes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(stage: Stage) -> None:
        stage.far.faults.add(Rule(Fault.ANSWER, call=Call.COMPLETE, status=422, count=1))
        stage.write(LARGE)
        stage.start()
        await stage.until(lambda: "retry" in stage.events(LARGE), "the end of the first attempt")
        stage.write(SMALL)  # wakes the dispatcher
        await stage.arrives(SMALL)
        await stage.arrives(LARGE)
        await asyncio.sleep(SLOW_S)
        assert await stage.stop() == 0

        assert stage.events(LARGE) == ["claim", "retry", "claim", "finish"]
        check(stage.evidence({f"models/{LARGE}": stage.sha256(LARGE)}))

    monkeypatch.setattr(life, "_Inline", _SlowRetry)
    play(scenario)
