"""Faults 1 to 4 of ``matrix.md``: a program that is killed or stopped, a machine that sleeps, clocks."""

import asyncio
import signal
from collections.abc import Callable, Mapping

import httpx
import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.history import Entry
from syncd.types import Call
from tests.matrix.stage import (
    HOUR_S,
    LARGE,
    OTHER,
    SMALL,
    Broken,
    Stage,
    call_of,
    cells,
    staged,
)
from tests.oracle import check

Action = Callable[[], None]
PHASES = ("hash", "presign", "part", "complete", "register", "commit")
FILES = {"part": LARGE, "complete": LARGE}
CALLS: Mapping[str, Call] = {
    "presign": Call.PRESIGN, "part": Call.PUT_PART, "complete": Call.COMPLETE,
    "register": Call.REGISTER,
}  # fmt: skip
STEPS = 6
"""How many steps of the program after the moment it may still live: the call, the answer, the commit."""


def path_of(phase: str) -> str:
    return FILES.get(phase, SMALL)


def at(stage: Stage, phase: str, action: Action) -> list[float]:
    """Do it once, when the program gets there; the time at which that was."""
    done: list[float] = []

    def now() -> None:
        if not done:
            done.append(stage.loop.time())
            action()

    def on_request(request: httpx.Request) -> None:
        if call_of(request) is CALLS.get(phase):
            now()

    stage.line.on_request = on_request
    if phase == "hash":
        stage.while_read = lambda path: now()
    if phase == "commit":
        asyncio.create_task(_when_registered(stage, now))  # noqa: RUF006 - it ends with the loop
    return done


async def _when_registered(stage: Stage, action: Action) -> None:
    """The record is made, and its answer is on the way to the program or has just come."""
    while not stage.far.cloud.records():
        await asyncio.sleep(0.001)
    action()


def ended(stage: Stage, call: Call, path: str) -> list[Entry]:
    """Calls for a file that took effect."""
    return [e for e in stage.calls(call, path=path) if e.ok]


async def ends_well(stage: Stage, path: str) -> None:
    """The file is in the catalog, registered once."""
    await stage.arrives(path)
    await stage.stop()
    assert len(ended(stage, Call.REGISTER, path)) == 1
    check(stage.evidence({f"models/{path}": stage.sha256(path)}))


# -- F1: kill -9 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(STEPS))
@cells(1, *PHASES)
@staged()
async def test_C_killed_program_resumes_from_its_facts(
    stage: Stage, phase: str, steps: int
) -> None:
    """What was acknowledged is not sent again, and register is repeated only after a lookup."""
    path = path_of(phase)

    def kill() -> None:
        assert stage.life is not None
        if steps:
            stage.life.die_at = stage.life.steps + steps
        else:
            stage.life.kill()

    at(stage, phase, kill)
    stage.write(path)
    stage.start()
    assert await stage.ended() is None
    before = {name: ended(stage, name, path) for name in Call}
    kept = stage.job(path)
    stage.start()
    await ends_well(stage, path)
    if kept["storage_key"] is not None:
        assert (
            ended(stage, Call.PRESIGN, path)[: len(before[Call.PRESIGN])] == (before[Call.PRESIGN])
        )
        assert {r.storage_key for r in stage.far.cloud.records()} == {kept["storage_key"]}
    if kept["upload_id"] is not None:
        assert len(ended(stage, Call.INITIATE, path)) == 1
    if kept["stored_at"] is not None:
        for call in (Call.PUT_BODY, Call.PUT_PART, Call.COMPLETE):
            assert ended(stage, call, path) == before[call]
    if before[Call.REGISTER]:  # V: found by a lookup, and never sent again
        assert len(stage.calls(Call.REGISTER, path=path)) == 1


@pytest.mark.parametrize("steps", [1, 5, 10, 20])
@pytest.mark.cell("F01-watch")
@staged()
async def test_F01_watch_file_written_while_no_daemon_runs_is_found_by_the_walk(
    stage: Stage, steps: int
) -> None:
    """C W: a program killed while it walks, and a file that came while it was dead, without an event."""

    stage.write(SMALL)
    stage.start()
    assert stage.life is not None
    stage.life.die_at = steps
    assert await stage.ended() is None
    stage.write(OTHER)
    stage.start()
    for path in (SMALL, OTHER):
        await stage.arrives(path)
    assert stage.loop.time() < 60
    await stage.stop()
    check(stage.evidence({f"models/{p}": stage.sha256(p) for p in (SMALL, OTHER)}))


@pytest.mark.cell("F01-settle")
@staged()
async def test_F01_settle_kill_restarts_the_settle_window(stage: Stage) -> None:
    stage.write(SMALL)
    stage.start()
    await asyncio.sleep(4)
    assert stage.life is not None
    stage.life.kill()
    assert await stage.ended() is None
    assert stage.job(SMALL) is None
    begun_s = stage.loop.time()
    stage.start()
    await stage.until(lambda: stage.job(SMALL), "a job")
    assert stage.loop.time() - begun_s >= 5
    await ends_well(stage, SMALL)


# -- F2: SIGTERM ----------------------------------------------------------------------------------

GRACE_S = 20.0


def _terminate(stage: Stage) -> None:
    stage.loop.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]


async def _exits(stage: Stage, stopped_s: float, *, within_s: float) -> None:
    """X: 143, in time, without a leased job or a spent attempt."""
    assert await stage.ended() == 128 + signal.SIGTERM
    assert stage.loop.time() - stopped_s < within_s
    assert not stage.query("SELECT 1 FROM job WHERE state = 'leased' OR attempt > 1")
    assert not stage.holds()


@cells(2, "hash", "presign")
@staged()
async def test_X_C_stop_releases_the_job_without_spending_an_attempt(
    stage: Stage, phase: str
) -> None:
    stopped = at(stage, phase, lambda: _terminate(stage))
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: stopped, "the moment")
    await _exits(stage, stopped[0], within_s=2)
    job = stage.job(SMALL)
    assert (job["state"], job["attempt"]) == ("queued", 0)
    assert stage.events(SMALL)[-1] == "release"
    assert (job["storage_key"] is not None) == (phase == "presign")
    assert not stage.calls(Call.PUT_BODY)
    stage.start()
    await ends_well(stage, SMALL)


@cells(2, "complete", "register", "commit")
@staged()
async def test_X_V_stop_waits_for_the_last_small_requests(stage: Stage, phase: str) -> None:
    """Of a file whose bytes are there one small request is left: it is done before the end."""
    path = path_of(phase)

    stopped = at(stage, phase, lambda: _terminate(stage))
    stage.write(path)
    stage.start()
    await stage.until(lambda: stopped, "the moment")
    await _exits(stage, stopped[0], within_s=30)
    assert stage.job(path)["state"] == "done"
    sent = len(stage.calls())
    stage.start()
    await ends_well(stage, path)
    assert len(stage.calls(Call.REGISTER)) == 1
    assert len(stage.calls()) == sent


@pytest.mark.parametrize("performed", [True, False])
@cells(2, "complete", "register")
@staged()
async def test_X_V_stop_waits_for_a_missing_answer_no_longer_than_the_grace(
    stage: Stage, phase: str, performed: bool
) -> None:
    """After the grace it is as after a kill: the next start finds out what became of it."""
    path = path_of(phase)

    stage.inject(Rule(Fault.DELAY, call=CALLS[phase], delay_s=100, performed=performed))
    stopped = at(stage, phase, lambda: _terminate(stage))
    stage.write(path)
    stage.start()
    await stage.until(lambda: stopped, "the moment")
    await _exits(stage, stopped[0], within_s=30 + 2)
    assert stage.job(path)["state"] == "queued"
    stage.clear_faults()
    await asyncio.sleep(200)
    stage.start()
    await ends_well(stage, path)


@pytest.mark.cell("F02-watch")
@pytest.mark.cell("F02-settle")
@pytest.mark.parametrize("path", [SMALL, OTHER])
@staged()
async def test_F02_watch_F02_settle_idle_daemon_stops_at_once(stage: Stage, path: str) -> None:
    """What settles is in no table yet, and the next start watches it from the beginning."""

    await stage.begin(SMALL)
    if path == OTHER:
        stage.write(OTHER)
        await asyncio.sleep(1)
    stopped_s = stage.loop.time()
    _terminate(stage)
    await _exits(stage, stopped_s, within_s=1)
    assert stage.job(OTHER) is None
    stage.start()
    await ends_well(stage, path)


# -- F3: the machine sleeps -----------------------------------------------------------------------

NIGHT_S = 8 * HOUR_S


def _sleep(stage: Stage) -> None:
    """Clocks continue, nothing runs, and connections are lost."""
    stage.loop.skip(NIGHT_S)  # type: ignore[attr-defined]
    stage.clock.asleep_s += NIGHT_S


@pytest.mark.cell("F03-watch")
@staged()
async def test_F03_watch_sleep_is_followed_by_a_walk(stage: Stage) -> None:
    """W: a file that arrived without an event is found at once and not within the hour."""

    stage.settings["scan"] = {"interval_s": 7 * 24 * HOUR_S}
    await stage.begin(SMALL)
    with stage.without_events():
        stage.write(OTHER)
    _sleep(stage)
    woken_s = stage.loop.time()
    await stage.until(lambda: stage.registered(OTHER), "the other file")
    assert stage.loop.time() - woken_s < 60
    await ends_well(stage, OTHER)


@pytest.mark.cell("F03-settle")
@staged()
async def test_F03_settle_sleep_restarts_the_settle_window(stage: Stage) -> None:
    """ "restart": the window has passed by the clock, but the file was not examined."""

    stage.write(SMALL)
    stage.start()
    await asyncio.sleep(2)
    _sleep(stage)
    woken_s = stage.loop.time()
    await stage.until(lambda: stage.job(SMALL), "a job")
    assert stage.loop.time() - woken_s >= 5
    await ends_well(stage, SMALL)


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.cell("F03-hash")
@staged()
async def test_F03_hash_file_changed_during_sleep_is_superseded(
    stage: Stage, changed: bool
) -> None:
    def night() -> None:
        _sleep(stage)
        if changed:
            stage.write(SMALL, salt="by night")

    slept = at(stage, "hash", night)
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: slept, "the moment")
    await ends_well(stage, SMALL)
    assert ("replace" in stage.events(SMALL)) == changed
    assert len(stage.calls(Call.PRESIGN, path=SMALL)) == 1


def _reset() -> httpx.TransportError:
    return httpx.ReadError("Connection reset by peer")


@pytest.mark.parametrize("rule", [Fault.RESET, Fault.LOST_ANSWER])
@cells(3, "presign", "part", "complete", "register")
@staged()
async def test_R_V_call_interrupted_by_sleep_is_repeated_or_looked_up(
    stage: Stage, phase: str, rule: Fault
) -> None:
    """Whether it got through before the sleep or not; a URL that died over it is asked for anew."""
    path, call = path_of(phase), CALLS[phase]

    slept = at(stage, phase, lambda: _sleep(stage))
    stage.inject(Rule(rule, call=call))
    stage.write(path)
    stage.start()
    await stage.until(lambda: slept, "the moment")
    await stage.until(lambda: stage.registered(path), "the record")
    await ends_well(stage, path)
    hit = stage.hit()[0]
    assert "reject" not in stage.events(path)
    if phase == "presign":
        assert any(e.seq > hit.seq for e in ended(stage, call, path))
    if phase == "part":  # P: signed for a part of an hour, eight hours ago
        asked = [e for e in stage.calls(Call.SIGN_PART) if e.part == hit.part]
        assert any(e.at_ms > hit.at_ms for e in asked)
    if phase == "register":
        sends = stage.calls(call, path=path)
        lookups = [e.seq for e in stage.calls(Call.LIST_MODELS) if e.seq > hit.seq]
        assert lookups
        assert all(min(lookups) < again.seq for again in sends if again.seq > hit.seq)


# -- F4: the wall clock jumps ---------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-5, 5])
@pytest.mark.cell("F04-part")
@staged()
async def test_F04_part_expired_url_is_replaced_after_the_clock_jumped(
    stage: Stage, hours: int
) -> None:
    """P if refused: set back, the clock takes a dead URL for a live one, and the store refuses it."""

    def jump() -> None:
        stage.clock.wrong_s = hours * HOUR_S

    jumped = at(stage, "part", jump)
    stage.inject(broken=Broken(Call.PUT_PART, _reset, after_s=1000, once=True))
    stage.write(LARGE)
    stage.start()
    await stage.until(lambda: jumped, "the moment")
    await stage.finish(LARGE)
    assert len([e for e in stage.calls(Call.PUT_PART) if e.ok]) == 3
    refused = [e for e in stage.calls(Call.PUT_PART) if e.answered == 403]
    assert bool(refused) == (hours < 0)
    assert len(stage.calls(Call.SIGN_PART)) > 3
    assert len(stage.calls(Call.INITIATE)) == 1
    assert stage.events(LARGE)[-1] == "finish"
    assert "reject" not in stage.events(LARGE)
