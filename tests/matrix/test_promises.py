"""Promises of ``docs/reliability.md`` that need the whole daemon, in virtual time."""

import asyncio
from collections.abc import Mapping

import httpx
import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.types import Call
from tests.matrix.stage import HOUR_S, LARGE, OTHER, SMALL, Stage, call_of, play, staged
from tests.oracle import check


@staged()
async def test_I07_file_without_any_event_is_registered_after_the_next_walk(stage: Stage) -> None:
    await stage.begin(SMALL)
    with stage.without_events():
        stage.write(OTHER)
    await stage.until(lambda: stage.registered(OTHER), "the other file", HOUR_S + 60)
    await stage.stop()
    check(stage.evidence({f"models/{p}": stage.sha256(p) for p in (SMALL, OTHER)}))


INTENTS: Mapping[Call, tuple[str, ...]] = {
    Call.PRESIGN: ("sha256",),
    Call.PUT_BODY: ("sha256", "storage_key", "body_sent_at"),
    Call.INITIATE: ("storage_key",),
    Call.PUT_PART: ("storage_key", "upload_id", "part_size"),
    Call.COMPLETE: ("sha256", "upload_id", "complete_sent_at"),
    Call.REGISTER: ("sha256", "storage_key", "stored_at", "register_sent_at"),
}
"""What must be on the disk when the request leaves. A large file is presigned before it is read."""


@pytest.mark.parametrize("path", [SMALL, LARGE])
def test_I09_request_leaves_only_after_its_intent_is_committed(path: str) -> None:
    lacking: list[tuple[Call, str]] = []
    seen: set[Call] = set()

    async def scenario(stage: Stage) -> None:
        def observe(request: httpx.Request) -> None:
            call = call_of(request)
            if (
                call is not None
                and call in INTENTS
                and not (call is Call.PRESIGN and path == LARGE)
            ):
                job = stage.job(path)
                seen.add(call)
                lacking.extend((call, fact) for fact in INTENTS[call] if job[fact] is None)

        stage.line.on_request = observe
        await stage.begin(path)

    play(scenario)

    assert lacking == []
    assert seen == (
        {Call.PRESIGN, Call.PUT_BODY, Call.REGISTER}
        if path == SMALL
        else {Call.INITIATE, Call.PUT_PART, Call.COMPLETE, Call.REGISTER}
    )


@pytest.mark.parametrize(
    ("call", "status"), [(Call.PRESIGN, 500), (Call.PUT_BODY, 503), (Call.REGISTER, 500)]
)
@staged()
async def test_I14_failure_that_lasts_for_hours_ends_no_job(
    stage: Stage, call: Call, status: int
) -> None:
    stage.inject(Rule(Fault.ANSWER, call=call, status=status, count=None))
    stage.write(SMALL)
    stage.start()
    await asyncio.sleep(3 * HOUR_S)

    assert len(stage.hit()) > 20
    assert stage.job(SMALL)["state"] in ("queued", "leased")
    assert "reject" not in stage.events(SMALL)
    stage.clear_faults()
    await stage.arrives(SMALL)
    assert len({job["id"] for job in stage.query("SELECT id FROM job")}) == 1


@staged()
async def test_I15_one_bad_file_blocks_no_other_file(stage: Stage) -> None:
    stage.settings["upload"] = {"files": 1, "parts": 1}
    refused = Rule(
        Fault.ANSWER, call=Call.PRESIGN, contains="small", status=422, body="{}", count=None
    )
    stage.inject(refused)
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: (job := stage.job(SMALL)) and job["state"] == "failed", "F")
    stage.write(OTHER)
    await stage.until(lambda: stage.registered(OTHER), "the other file", 60)

    assert not stage.holds()
    assert stage.job(SMALL)["state"] == "failed"
