"""The pace of API calls, kept for each server across restarts."""

import asyncio

from syncd.sandbox.faults import Fault, Rule
from syncd.store.store import Store
from syncd.types import Call
from tests.matrix.stage import SMALL, Stage, play
from tests.simulation.far_side import API_URL

FILES = [f"loras/{number}.safetensors" for number in range(6)]


def test_R06_pace_that_the_server_throttled_is_kept() -> None:
    async def act(stage: Stage) -> None:
        stage.write(SMALL)
        stage.far.faults.add(Rule(Fault.ANSWER, call=Call.PRESIGN, status=429, count=1))
        stage.start()
        await stage.arrives(SMALL)
        await asyncio.sleep(5)
        await stage.stop()

        ((pace,),) = stage.query("SELECT calls_per_s FROM pace")
        assert pace < 10

    play(act)


def test_run_begins_with_the_pace_that_an_earlier_one_found() -> None:
    async def act(stage: Stage) -> None:
        stage.start()
        await asyncio.sleep(10)
        await stage.stop()
        store = Store(str(stage.state))
        store.servers.note_pace(API_URL, 0.5)
        store.close()
        for path in FILES:
            stage.write(path, 4000)
        stage.start()
        for path in FILES:
            await stage.arrives(path)
        await stage.stop()

        calls = stage.calls(Call.PRESIGN, Call.REGISTER)
        assert (calls[-1].at_ms - calls[0].at_ms) / 1000 >= len(
            calls
        ) - 3  # one a second, the least

    play(act)
