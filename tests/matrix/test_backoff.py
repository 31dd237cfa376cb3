"""Waits between tries and attempts are drawn from their whole range."""

from itertools import pairwise

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.types import Call
from tests.matrix.stage import LARGE, SMALL, Stage, play

JOB_BASE_S, JOB_CAP_S = 15.0, 300.0
REQUEST_CEILINGS_S = (1.0, 2.0, 4.0)
ANSWER_S = 0.5
"""Of every wait between two tries: the way to the server and back."""


async def waits_s(stage: Stage, path: str, attempts: int) -> dict[int, float]:
    """The wait after each of the first *attempts*, as the queue has it; very short ones are missed."""
    found: dict[int, float] = {}

    def has_waited() -> bool:
        job = stage.job(path)
        if job is not None and job["state"] == "queued" and job["last_error"] is not None:
            found[job["attempt"]] = (job["run_after"] - job["updated_at"]) / 1000
        return bool(found) and max(found) >= attempts

    await stage.until(has_waited, "all attempts")
    return found


def require_spread(drawn: list[float]) -> None:
    """Full jitter: from [0, 1], in its lower and in its upper half, never the same twice."""
    assert all(0 <= share <= 1 for share in drawn)
    assert min(drawn) < 0.4
    assert max(drawn) > 0.6
    assert len(set(drawn)) == len(drawn)


def test_job_backoff_is_spread_over_the_whole_range_of_each_attempt() -> None:
    async def scenario(stage: Stage) -> None:
        stage.inject(Rule(Fault.MALFORMED_JSON, call=Call.PRESIGN, count=None))
        stage.write(SMALL)
        stage.start()
        found = await waits_s(stage, SMALL, 15)

        assert len(found) >= 12
        require_spread([s / min(JOB_CAP_S, JOB_BASE_S * 2 ** (n - 1)) for n, s in found.items()])

    play(scenario)


@pytest.mark.parametrize(
    ("call", "path"), [(Call.PRESIGN, SMALL), (Call.PUT_BODY, SMALL), (Call.PUT_PART, LARGE)]
)
def test_repeats_of_one_request_are_spread_over_the_whole_range_of_each_try(
    call: Call, path: str
) -> None:
    async def scenario(stage: Stage) -> None:
        stage.settings["upload"] = {"files": 1, "parts": 1, "parts_max": 1}
        stage.inject(Rule(Fault.ANSWER, call=call, status=500, count=None))
        stage.write(path)
        stage.start()
        await stage.until(lambda: len(stage.hit()) >= 12, "three attempts of four tries")
        times_s = [entry.at_ms / 1000 for entry in stage.hit()]
        tries = [times_s[i : i + 4] for i in range(0, 12, 4)]
        waited = [[b - a for a, b in pairwise(attempt)] for attempt in tries]

        for attempt in waited:
            for wait, ceiling in zip(attempt, REQUEST_CEILINGS_S, strict=True):
                assert wait <= ceiling + ANSWER_S
        last = [attempt[2] for attempt in waited]
        assert max(last) - min(last) > 0.5

    play(scenario)
