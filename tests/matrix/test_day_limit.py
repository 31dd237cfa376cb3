"""``limits.max_bytes_per_day`` over more than a day, with a restart in the middle."""

import asyncio

from syncd.core.transfer.quota import DAY_MS
from syncd.types import Call
from tests.matrix.stage import HOUR_S, LARGE, SIZES, Stage, staged
from tests.oracle import check

SMALL_FILES = [f"loras/{number}.safetensors" for number in range(2)]
SIZE = 9_000
LIMIT = 12_000
BODIES = (Call.PUT_BODY, Call.PUT_PART)


@staged(settings={"limits": {"max_bytes_per_day": LIMIT}, "upload": {"parts": 1, "parts_max": 1}})
async def test_daily_limit_bounds_the_bytes_of_any_day_across_a_restart(stage: Stage) -> None:
    for path in SMALL_FILES:
        stage.write(path, SIZE)
    stage.write(LARGE)  # sent in parts, which stop and continue between two of them
    stage.start()
    (hold,) = await stage.until(stage.holds, "a hold")
    await asyncio.sleep(60)  # until what runs has ended
    calls = len(stage.calls())
    await asyncio.sleep(HOUR_S)

    assert hold["kind"] == "limit"
    assert len(stage.calls()) == calls
    await stage.restart()
    hours = 0
    while not all(stage.registered(path) for path in (*SMALL_FILES, LARGE)) and hours < 96:
        await asyncio.sleep(HOUR_S)
        hours += 1
    await stage.stop()

    sent = [(entry.at_ms, entry.size or 0) for entry in stage.far.history.entries(*BODIES)]
    for begin_ms, _ in sent:
        within = sum(size for at_ms, size in sent if begin_ms <= at_ms < begin_ms + DAY_MS)
        assert within < LIMIT + SIZE
    assert sum(size for _, size in sent) == 2 * SIZE + SIZES[LARGE]
    check(stage.evidence({f"models/{path}": stage.sha256(path) for path in (*SMALL_FILES, LARGE)}))
