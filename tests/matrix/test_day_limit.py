"""``limits.max_bytes_per_day`` over more than a day, with a restart in the middle."""

import asyncio

from syncd.core.transfer.quota import DAY_MS
from syncd.types import Call
from tests.matrix.stage import HOUR_S, LARGE, SIZES, Stage, play
from tests.oracle import check

FILES = [f"loras/{number}.safetensors" for number in range(2)]
SIZE = 9_000
LIMIT = 12_000
LONGEST_BODY = SIZE
STORE_CALLS = (Call.PUT_BODY, Call.PUT_PART)


def sent_in(stage: Stage, begin_ms: int, end_ms: int) -> int:
    entries = stage.far.history.entries(*STORE_CALLS)
    return sum(entry.size or 0 for entry in entries if begin_ms <= entry.at_ms < end_ms)


def test_no_day_takes_more_than_the_limit_and_what_was_under_way_and_all_arrives() -> None:
    async def scenario(stage: Stage) -> None:
        stage.settings["limits"] = {"max_bytes_per_day": LIMIT}
        stage.settings["upload"] = {"files": 1, "parts": 1}
        for path in FILES:
            stage.write(path, SIZE)
        stage.write(LARGE)  # goes in parts: they stop and go on between two of them
        stage.start()
        await stage.until(lambda: stage.holds(), "a hold")
        (hold,) = stage.holds()
        assert hold["kind"] == "limit"
        assert f"limits.max_bytes_per_day is {LIMIT}" in hold["reason"]
        calls = len(stage.calls())
        await asyncio.sleep(6 * HOUR_S)
        assert len(stage.calls()) == calls  # the hold makes no calls
        await stage.stop()
        stage.start()
        await asyncio.sleep(HOUR_S)
        assert len(stage.calls(*STORE_CALLS)) == len(
            [entry for entry in stage.calls()[:calls] if entry.call in STORE_CALLS]
        )
        for path in (*FILES, LARGE):
            await stage.until(lambda path=path: stage.registered(path), path, 96 * HOUR_S)  # type: ignore[misc]
        await stage.until(lambda: not stage._busy(), "an empty queue")
        await stage.stop()

        moments = [entry.at_ms for entry in stage.far.history.entries(*STORE_CALLS)]
        for moment in moments:
            assert sent_in(stage, moment, moment + DAY_MS) < LIMIT + LONGEST_BODY
        assert max(moments) - min(moments) > DAY_MS
        assert sent_in(stage, 0, max(moments) + 1) == 2 * SIZE + SIZES[LARGE]
        check(stage.evidence({f"models/{path}": stage.sha256(path) for path in (*FILES, LARGE)}))

    play(scenario)
