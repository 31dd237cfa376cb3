"""How holds begin and end: the fuse, the end by a first good answer, and who is woken by it."""

import asyncio
import json
from collections.abc import Iterable

import httpx
import pytest

from syncd.core.transfer import in_flight
from syncd.sandbox.faults import Fault, Rule
from syncd.types import Call
from tests.matrix.stage import HOUR_S, LARGE, SMALL, Stage, call_of, staged

THIRD = "vae/third.safetensors"
THIRD_SIZE = 9_500
"""Larger than SMALL, so that SMALL is claimed first; still sent in one request."""


# -- the end of a hold -----------------------------------------------------------------------------

NEXT_CALLS = [
    (Call.PRESIGN, SMALL, Call.PUT_BODY),
    (Call.PUT_BODY, SMALL, Call.REGISTER),
    (Call.INITIATE, LARGE, Call.SIGN_PART),
    (Call.SIGN_PART, LARGE, Call.PUT_PART),
    (Call.PUT_PART, LARGE, Call.COMPLETE),
    (Call.COMPLETE, LARGE, Call.REGISTER),
]


@pytest.mark.parametrize(("failing", "path", "following"), NEXT_CALLS)
@staged()
async def test_good_answer_ends_the_hold_before_the_next_call(
    stage: Stage, failing: Call, path: str, following: Call
) -> None:
    stage.inject(Rule(Fault.ANSWER, call=failing, status=503, count=None))
    stage.write(path)
    stage.start()
    await stage.until(stage.holds, "a hold")
    stage.clear_faults()
    seen: list[int] = []

    def observe(request: httpx.Request) -> None:
        if call_of(request) is following:
            seen.append(len(stage.holds()))

    stage.line.on_request = observe
    await stage.arrives(path)

    assert seen[0] == 0


@staged()
async def test_registration_ends_the_hold_before_its_job_ends(stage: Stage) -> None:
    stage.inject(Rule(Fault.ANSWER, call=Call.REGISTER, status=503, count=None))
    stage.write(SMALL)
    stage.start()
    await stage.until(stage.holds, "a hold")
    stage.clear_faults()
    await stage.arrives(SMALL)
    logged = [json.loads(line) for line in stage.log.getvalue().splitlines()]
    (last,) = [i for i, line in enumerate(logged) if line.get("end") == "registered"]

    assert "hold.ended" in [line["event"] for line in logged[:last]]


@staged()
async def test_other_jobs_start_at_the_end_of_a_hold_while_the_probe_still_runs(
    stage: Stage,
) -> None:
    stage.inject(Rule(Fault.ANSWER, call=Call.PRESIGN, status=503, count=None))
    stage.write(SMALL)
    stage.start()
    await stage.until(stage.holds, "a hold")
    stage.write(THIRD, THIRD_SIZE)
    await stage.until(lambda: stage.job(THIRD), "another job")
    stage.clear_faults()
    stage.inject(Rule(Fault.DELAY, call=Call.REGISTER, delay_s=20))
    await stage.arrives(THIRD)
    await stage.arrives(SMALL)

    assert stage.hit()[-1].call == Call.REGISTER
    first, second = (e.at_ms for e in stage.calls(Call.PRESIGN) if e.ok)
    assert second - first < 2000


@staged()
async def test_new_job_starts_at_once_while_another_one_backs_off(stage: Stage) -> None:
    bad = Rule(Fault.MALFORMED_JSON, call=Call.PRESIGN, contains="small", count=None)
    stage.inject(bad)
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: _wait_s(stage, SMALL) > 60, "a long wait")
    stage.write(THIRD, THIRD_SIZE)
    await stage.until(lambda: stage.job(THIRD), "another job")
    await stage.until(lambda: stage.registered(THIRD), "the other file", within_s=5)

    assert _wait_s(stage, SMALL) > 0


def _wait_s(stage: Stage, path: str) -> float:
    job = stage.job(path)
    if job is None or job["state"] != "queued":
        return 0
    return float(job["run_after"] - stage.clock.now_ms()) / 1000


# -- the fuse --------------------------------------------------------------------------------------

NAMES = [f"loras/{number}.safetensors" for number in range(10)]
REFUSED = Rule(Fault.ANSWER, call=Call.PRESIGN, status=422, body="{}", count=None)
UNSIGNED = Rule(
    Fault.ANSWER, call=Call.PUT_BODY, status=403, count=None,
    body="<?xml?><Error><Code>SignatureDoesNotMatch</Code></Error>",
)  # fmt: skip
UNREADABLE = Rule(Fault.MALFORMED_JSON, call=Call.PRESIGN, count=None)


IN_ORDER = {"upload": {"parts": 1}}
"""One body at a time."""


async def turn_down(stage: Stage, names: Iterable[str], rule: Rule) -> None:
    """Let the server turn down each of *names*, one after the other."""
    stage.inject(rule)
    for name in names:
        stage.write(name, 3000)
        await stage.until(lambda name=name: _turned_down(stage, name), name)  # type: ignore[misc]
    stage.clear_faults()


def _turned_down(stage: Stage, name: str) -> bool:
    job = stage.job(name)
    return job is not None and job["state"] != "leased" and job["last_error"] is not None


async def accept(stage: Stage, name: str) -> None:
    """Let the server take *name*."""
    stage.write(name, 3000)
    await stage.until(lambda: stage.registered(name), name)


def failed(stage: Stage) -> int:
    return len(stage.query("SELECT 1 FROM job WHERE state = 'failed'"))


@staged(settings=IN_ORDER)
async def test_I15_five_files_in_a_row_that_fail_for_one_reason_become_a_hold(stage: Stage) -> None:
    stage.start()
    await turn_down(stage, NAMES[:4], REFUSED)
    assert not stage.holds()
    assert failed(stage) == 4

    await turn_down(stage, NAMES[4:5], REFUSED)
    (hold,) = await stage.until(stage.holds, "a hold")

    assert hold["kind"] == "operator"
    assert failed(stage) == 0
    for name in NAMES[:5]:
        await stage.arrives(name)


@staged()
async def test_I15_no_file_fails_that_was_in_flight_when_the_hold_began(stage: Stage) -> None:
    stage.inject(REFUSED)
    for name in NAMES:
        stage.write(name, 3000)
    stage.start()
    await stage.until(stage.holds, "a hold")
    await asyncio.sleep(60)
    assert failed(stage) == 0

    await asyncio.sleep(2 * HOUR_S)  # the probes fail as well
    assert failed(stage) == 0
    assert len(stage.hit()) <= len(NAMES) + 2

    stage.clear_faults()
    for name in NAMES:
        await stage.arrives(name)


@staged()
async def test_jobs_in_flight_when_a_hold_begins_count_as_no_probe(stage: Stage) -> None:
    stage.inject(Rule(Fault.ANSWER, call=Call.PRESIGN, status=429, count=None))
    for name in NAMES:
        stage.write(name, 3000)
    stage.start()
    await stage.until(stage.holds, "a hold")
    await asyncio.sleep(5)
    (hold,) = stage.holds()

    assert len(stage.hit()) >= len(NAMES)
    assert hold["probes"] == 0


@pytest.mark.parametrize("files", [1, 2])
@staged()
async def test_large_files_run_at_once_up_to_the_configured_number(
    stage: Stage, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight, "SMALL", 1000)
    stage.settings["upload"] = {"files": files}
    stage.inject(Rule(Fault.DELAY, call=Call.PRESIGN, delay_s=5, count=None))
    for name in NAMES[:4]:
        stage.write(name, 3000)
    stage.start()
    most = 0
    for _ in range(200):
        most = max(most, len(stage.query("SELECT 1 FROM job WHERE state = 'leased'")))
        await asyncio.sleep(0.5)
    stage.clear_faults()
    for name in NAMES[:4]:
        await stage.arrives(name)

    assert most == files


@pytest.mark.parametrize("second", [REFUSED, UNSIGNED], ids=["after-success", "other-reason"])
@staged(settings=IN_ORDER)
async def test_I15_only_failures_in_a_row_for_one_reason_are_counted(
    stage: Stage, second: Rule
) -> None:
    stage.start()
    await turn_down(stage, NAMES[:4], REFUSED)
    if second is REFUSED:
        await accept(stage, NAMES[9])
    await turn_down(stage, NAMES[4:8], second)
    assert not stage.holds()
    assert failed(stage) == 8

    await turn_down(stage, NAMES[8:9], second)
    await stage.until(stage.holds, "a hold")

    assert failed(stage) == 4


@staged(settings=IN_ORDER)
async def test_I15_repeated_failure_of_one_file_is_no_hold(stage: Stage) -> None:
    stage.start()
    stage.inject(UNREADABLE)
    stage.write(NAMES[0], 3000)
    await stage.until(lambda: len(stage.hit()) >= 20, "twenty tries")

    assert not stage.holds()


@staged(settings=IN_ORDER)
async def test_I15_R29_five_files_with_bad_answers_become_a_hold(stage: Stage) -> None:
    stage.start()
    stage.inject(UNREADABLE)
    for name in NAMES[:5]:
        stage.write(name, 3000)
    (hold,) = await stage.until(stage.holds, "a hold")
    asked = len(stage.hit())

    assert hold["kind"] == "offline"
    assert asked <= 5 * 2 * 5
    assert failed(stage) == 0
    stage.clear_faults()
    for name in NAMES[:5]:
        await stage.arrives(name)
