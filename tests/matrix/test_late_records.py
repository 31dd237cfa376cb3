"""A registration that the cloud carries out long after the daemon stopped waiting for it."""

import asyncio

import pytest

from syncd.model import Call
from syncd.sandbox.faults import Fault, Rule
from tests.matrix.stage import SMALL, Stage, check, play

LATE_S = 55.0
"""Later than the daemon waits for an answer (30 s), sooner than proxies give up (60 s)."""


@pytest.mark.parametrize("touched", [False, True])
def test_I04_a_record_that_comes_late_is_found_and_not_made_again(touched: bool) -> None:
    """Also where the file was touched meanwhile, so that its job was taken away and made anew."""

    async def act(stage: Stage) -> None:
        stage.far.faults.add(Rule(Fault.DELAY, call=Call.REGISTER, delay_s=LATE_S, count=1))
        stage.write(SMALL)
        stage.start()
        await stage.until(lambda: stage.job(SMALL) and stage.job(SMALL)["register_sent_at"], "it")
        if touched:
            await asyncio.sleep(5)
            stage.stamp(SMALL)
            stage.note(SMALL)
        await stage.arrives(SMALL)
        await stage.until(lambda: stage.job(SMALL)["state"] == "done", "its end")
        await asyncio.sleep(2 * LATE_S)  # whatever is under way arrives
        await stage.stop()

        assert len(stage.calls(Call.REGISTER)) == len(stage.far.cloud.records()) == 1
        check(stage.evidence({f"models/{SMALL}": stage.sha256(SMALL)}))

    play(act)
