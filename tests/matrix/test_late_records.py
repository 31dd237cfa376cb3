"""Requests that the cloud carries out after it gave up on them, or after their client died."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise

import httpx
import pytest

from syncd.cloud.client import PER_PAGE
from syncd.core.jobs.retry_policy import LATEST_S
from syncd.sandbox.cloud import Registered
from syncd.sandbox.faults import Fault, Rule
from syncd.types import Call, HintKind
from tests.matrix.stage import HOUR_S, LARGE, SMALL, Stage, play, staged
from tests.oracle import check

LATE_S = 55.0
"""Later than the daemon waits for an answer (30 s), sooner than proxies give up (60 s)."""

UNCLEAR = {
    "500": Rule(Fault.ANSWER, status=500, late_s=LATE_S),
    "502": Rule(Fault.ANSWER, status=502, late_s=LATE_S),
    "504": Rule(Fault.ANSWER, status=504, late_s=LATE_S),
    "reset": Rule(Fault.RESET, late_s=LATE_S),
    "html": Rule(Fault.HTML, performed=False, late_s=LATE_S),
    "silence": Rule(Fault.DELAY, delay_s=LATE_S),
}
"""Answers that leave it open whether the call takes effect; it does, ``LATE_S`` later."""


async def intent(stage: Stage, path: str, name: str) -> None:
    """Wait until the intent of a call is committed."""
    await stage.until(lambda: (job := stage.job(path)) and job[name], name)


async def no_change(stage: Stage, path: str) -> None:
    """Leave everything as it is."""


async def kill(stage: Stage, path: str) -> None:
    """SIGKILL while the request is on its way, and a restart at once."""
    assert stage.life is not None
    await asyncio.sleep(1)
    stage.life.kill()
    await stage.ended()
    stage.start()


async def touch(stage: Stage, path: str) -> None:
    """The file gets a new mtime, so its job is superseded and another one created."""
    await asyncio.sleep(5)
    stage.stamp(path)


Change = Callable[[Stage, str], Awaitable[None]]


def arrives_late(call: Call, path: str, intent_name: str, rule: Rule, change: Change) -> None:
    """One file, one call that is carried out late, and at the end one record."""

    async def scenario(stage: Stage) -> None:
        stage.far.faults.add(replace(rule, call=call, count=1))
        stage.write(path)
        stage.start()
        await intent(stage, path, intent_name)
        await change(stage, path)
        await stage.arrives(path)
        await stage.until(lambda: stage.job(path)["state"] == "done", "the end of the job")
        await asyncio.sleep(2 * LATE_S)  # until everything on its way has arrived
        await stage.stop()

        assert len(stage.far.cloud.records()) == 1
        assert len(stage.calls(Call.INITIATE)) <= 1
        for first, second in pairwise(stage.calls(call)):
            assert second.at_ms - first.at_ms >= LATEST_S * 1000
        check(stage.evidence({f"models/{path}": stage.sha256(path)}))

    play(scenario, switches={"register_repeats": True})


@pytest.mark.cell("F50-register")
@pytest.mark.parametrize("rule", UNCLEAR.values(), ids=UNCLEAR)
@pytest.mark.parametrize("change", [no_change, kill, touch])
def test_I29_register_that_arrives_late_leaves_one_record(rule: Rule, change: Change) -> None:
    arrives_late(Call.REGISTER, SMALL, "register_sent_at", rule, change)


@staged(switches={"listing_off": 405, "register_repeats": True})
async def test_I29_register_answered_after_its_job_was_superseded_is_not_repeated(
    stage: Stage,
) -> None:
    stage.far.faults.add(Rule(Fault.DELAY, call=Call.REGISTER, delay_s=25, count=1))
    stage.write(SMALL)
    stage.start()
    await intent(stage, SMALL, "register_sent_at")
    superseded = stage.job(SMALL)["id"]
    await touch(stage, SMALL)
    await stage.until(lambda: stage.job(SMALL)["id"] != superseded, "another job", 15)
    await stage.until(lambda: stage.job(SMALL)["state"] == "done", "the end of the job")
    await stage.stop()

    (record,) = stage.far.cloud.records()
    assert stage.job(SMALL)["record_id"] == record.id
    check(stage.evidence({f"models/{SMALL}": stage.sha256(SMALL)}))


@pytest.mark.cell("F50-complete")
@pytest.mark.parametrize("rule", UNCLEAR.values(), ids=UNCLEAR)
@pytest.mark.parametrize("change", [no_change, kill])
def test_I29_complete_that_arrives_late_leaves_one_record(rule: Rule, change: Change) -> None:
    arrives_late(Call.COMPLETE, LARGE, "complete_sent_at", rule, change)


@pytest.mark.parametrize("back_s", [HOUR_S, 24 * HOUR_S])
@staged(switches={"register_repeats": True})
async def test_I31_clock_set_back_does_not_lengthen_the_wait_for_a_register(
    stage: Stage, back_s: float
) -> None:
    never = Rule(Fault.DELAY, call=Call.REGISTER, delay_s=LATE_S, performed=False, count=1)
    stage.far.faults.add(never)
    stage.write(SMALL)
    stage.start()
    await intent(stage, SMALL, "register_sent_at")
    await asyncio.sleep(1)
    assert stage.life is not None
    stage.life.kill()
    await stage.ended()
    stage.clock.wrong_s -= back_s
    stage.start()
    await stage.until(lambda: stage.job(SMALL)["state"] == "done", "the end", 2 * LATEST_S)
    await stage.stop()

    assert len(stage.far.cloud.records()) == 1


@staged(switches={"register_repeats": True})
async def test_I29_clock_set_back_before_a_register_does_not_shorten_the_wait_for_it(
    stage: Stage,
) -> None:
    def set_back(request: httpx.Request) -> None:
        if request.url.path.endswith("/presign"):
            stage.clock.wrong_s = -HOUR_S

    stage.line.on_request = set_back
    stage.far.faults.add(replace(UNCLEAR["silence"], call=Call.REGISTER, count=1))
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: (job := stage.job(SMALL)) and job["state"] == "done", "the end")
    await asyncio.sleep(2 * LATE_S)  # until everything on its way has arrived
    await stage.stop()

    assert stage.clock.wrong_s == -HOUR_S
    assert len(stage.far.cloud.records()) == 1


def fill_catalog(stage: Stage, count: int) -> None:
    """Records of others, older than any of ours."""
    for number in range(count):
        record = Registered(
            id=f"other-{number}", display_name="other", model_type="vae",
            storage_key=f"elsewhere/{number}", file_size=1, file_hash=f"sha256:{number:064}",
            model_path=f"models/vae/{number}.pt", model_status="active", created_at="",
            updated_at="",
        )  # fmt: skip
        stage.far.cloud._records[record.id] = record


@staged()
async def test_I11_file_in_a_catalog_that_shrinks_during_each_listing_is_adopted(
    stage: Stage,
) -> None:
    stage.write(SMALL)
    fill_catalog(stage, 2 * PER_PAGE)
    stage.register_elsewhere(SMALL)
    others = iter(range(2 * PER_PAGE))

    def delete_one(request: httpx.Request) -> None:
        if request.url.params.get("current_page") == "2":
            stage.far.cloud._records.pop(f"other-{next(others)}")

    stage.line.on_request = delete_one
    stage.start()
    await stage.arrives(SMALL)
    await stage.until(lambda: (job := stage.job(SMALL)) and job["state"] == "done", "the end")
    await stage.stop()

    assert len(stage.calls(Call.LIST_MODELS)) >= 3 * 2
    assert not stage.calls(Call.PRESIGN, Call.REGISTER)


def the_record(stage: Stage) -> Registered:
    """The only active record."""
    (record,) = [each for each in stage.far.cloud.records() if each.model_status == "active"]
    return record


def rename(stage: Stage, path: str, to: str) -> None:
    (stage.root / path).rename(stage.root / to)
    stage.hint(path, HintKind.DELETED)
    stage.note(to)
    stage.hint(to, HintKind.MOVED)


FIRST, SECOND = "loras/first.safetensors", "loras/second.safetensors"


@pytest.mark.parametrize(
    ("call", "status"),
    [
        *((Call.LIST_MODELS, status) for status in (400, 402, 403, 404, 413, 418, 422, 507)),
        *((Call.GET_MODEL, status) for status in (400, 403, 405, 418)),
    ],
)
def test_I11_register_of_unknown_outcome_waits_while_the_server_refuses_to_list(
    call: Call, status: int
) -> None:
    """Where the listing omits the storage keys, each record is read by its id."""

    async def scenario(stage: Stage) -> None:
        stage.write(FIRST, 4000)
        stage.start()
        await stage.arrives(FIRST)
        stage.inject(
            Rule(Fault.LOST_ANSWER, call=Call.REGISTER, count=1),
            Rule(Fault.ANSWER, call=call, status=status, count=None),
        )
        stage.write(SMALL)
        await stage.until(lambda: stage.registered(SMALL), "a register without an answer")
        await asyncio.sleep(HOUR_S)
        stage.write(SECOND, 4000)
        await stage.until(lambda: stage.registered(SECOND), "another file")
        stage.clear_faults()
        await stage.until(lambda: stage.job(SMALL)["state"] == "done", "the end of the job")
        await stage.stop()

        assert len(stage.calls(Call.REGISTER, path=SMALL)) == 1
        check(stage.evidence({f"models/{SMALL}": stage.sha256(SMALL)}))

    omitted = ("storage_key",) if call is Call.GET_MODEL else ()
    play(scenario, switches={"register_repeats": True, "list_omits": omitted})


@pytest.mark.parametrize("last", [SECOND, SMALL], ids=["renamed again", "renamed back"])
@staged()
async def test_I29_move_that_arrives_late_does_not_undo_the_next_one(
    stage: Stage, last: str
) -> None:
    await stage.begin(SMALL)
    stage.inject(Rule(Fault.ANSWER, call=Call.UPDATE_MODEL, status=504, late_s=LATE_S, count=1))
    rename(stage, SMALL, FIRST)
    await asyncio.sleep(20)
    rename(stage, FIRST, last)
    await stage.until(lambda: stage.registered(last), "the file where it is now")
    await asyncio.sleep(3 * LATE_S)
    await stage.stop()

    active = [r for r in stage.far.cloud.records() if r.model_status == "active"]
    assert [r.model_path for r in active if r.model_path == f"models/{last}"]
    assert stage.job(last)["state"] == "done"
    assert stage.job(last)["record_id"] in {r.id for r in active}


@pytest.mark.parametrize("action", ["disable", "delete"])
def test_I29_late_retirement_spares_a_file_that_returned(action: str) -> None:
    call = Call.DELETE_MODEL if action == "delete" else Call.UPDATE_MODEL

    async def scenario(stage: Stage) -> None:
        stage.write(SMALL)
        data = (stage.root / SMALL).read_bytes()
        stage.start()
        await stage.arrives(SMALL)
        await asyncio.sleep(120)
        stage.inject(Rule(Fault.ANSWER, call=call, status=504, late_s=80, count=4))
        (stage.root / SMALL).unlink()
        stage.hint(SMALL, HintKind.DELETED)
        sent = "SELECT 1 FROM record WHERE retire_sent_at IS NOT NULL"
        await stage.until(lambda: stage.query(sent), "the retirement")
        stage.put(SMALL, data)
        await stage.until(lambda: stage.registered(SMALL), "the record")
        await asyncio.sleep(HOUR_S)
        await stage.stop()

        assert the_record(stage).id == stage.job(SMALL)["record_id"]

    play(
        scenario,
        settings={"catalog": {"on_delete": action, "delete_grace_s": 1, "reconcile_s": 60}},
    )


@pytest.mark.parametrize("action", ["disable", "delete"])
def test_I07_record_moving_with_its_renamed_file_is_not_retired(action: str) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.begin(SMALL)
        record_id = the_record(stage).id
        stage.inject(Rule(Fault.DELAY, call=Call.UPDATE_MODEL, delay_s=25, count=1))
        rename(stage, SMALL, FIRST)
        stage.write(SECOND, 4000)  # the end of its job lets retirements begin
        await stage.arrives(FIRST)
        await asyncio.sleep(HOUR_S)
        await stage.stop()

        active = {r.id: r for r in stage.far.cloud.records() if r.model_status == "active"}
        assert active[record_id].model_path == f"models/{FIRST}"
        assert stage.job(FIRST)["record_id"] == record_id

    play(scenario, settings={"catalog": {"on_delete": action, "delete_grace_s": 1}})


@pytest.mark.parametrize("action", ["disable", "delete"])
def test_I07_record_that_others_moved_with_the_renamed_file_is_not_retired(action: str) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.begin(SMALL)
        await stage.stop()
        record = the_record(stage)
        moved = replace(record, model_path=f"models/{FIRST}")
        stage.far.cloud._records[record.id] = moved
        rename(stage, SMALL, FIRST)
        stage.start()
        await stage.arrives(FIRST)
        await asyncio.sleep(HOUR_S)
        stage.write(SECOND, 4000)  # the end of its job lets retirements begin
        await stage.arrives(SECOND)
        await asyncio.sleep(HOUR_S)
        await stage.stop()

        active = {r.id: r for r in stage.far.cloud.records() if r.model_status == "active"}
        assert active[record.id].model_path == f"models/{FIRST}"
        assert stage.job(FIRST)["record_id"] == record.id

    play(scenario, settings={"catalog": {"on_delete": action, "delete_grace_s": 1}})
