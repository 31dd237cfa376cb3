"""
Row 4 of ``matrix.md``, and promise I31: no wait is longer because the wall clock was set.

The clock is set in both directions during each wait, while the daemon runs and between two runs of it, and
has to end within its own maximum from the step on.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from apscheduler.job import Job
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from syncd.daemon.service import _Every
from syncd.sandbox.faults import Fault, Rule
from syncd.store.store import Store
from syncd.types import Call, HintKind, HoldKind
from tests.matrix.stage import HOUR_S, LARGE, OTHER, SMALL, Broken, Stage, play
from tests.oracle import RULES, o3_committed_parts_stay_sent

DAY_S = 24 * HOUR_S
POLL_S = 5.0
SLACK_S = 60.0
"""For the work itself, and for the polling of an idle daemon."""

STEPS = pytest.mark.parametrize("step_s", [-DAY_S, DAY_S], ids=["back", "forward"])
WHEN = pytest.mark.parametrize("restart", [False, True], ids=["running", "restart"])


async def set_clock(stage: Stage, step_s: float, *, restart: bool) -> float:
    """Set the wall clock, while the daemon runs or between two runs; the true time of the step."""
    if restart:
        await stage.stop()
    stage.clock.wrong_s += step_s
    if restart:
        stage.start()
    return stage.loop.time()


async def ends_well(stage: Stage, *paths: str) -> None:
    """All of *paths* are registered, and the oracle is content."""
    for path in paths:
        await stage.arrives(path)
    await stage.stop()
    evidence = stage.evidence({f"models/{path}": stage.sha256(path) for path in paths})
    for rule in RULES:
        if rule is not o3_committed_parts_stay_sent:  # it compares the two clocks
            rule(evidence)


async def comes(
    stage: Stage, condition: Callable[[], Any], since_s: float, within_s: float
) -> None:
    """Require *condition* to become true within *within_s* after *since_s*."""
    while not condition():
        assert stage.loop.time() < since_s + within_s, stage.report()
        await asyncio.sleep(POLL_S)


# -- back-off --------------------------------------------------------------------------------------

REDIRECT_WAIT_S = 900.0
"""Row 26: what a job waits after a redirect of the store."""


@WHEN
@STEPS
def test_I31_F04_backoff_of_a_job_ends_within_its_own_wait(step_s: float, restart: bool) -> None:
    async def scenario(stage: Stage) -> None:
        stage.inject(Rule(Fault.REDIRECT, count=None, call=Call.PUT_BODY))
        stage.write(SMALL)
        stage.start()
        await stage.until(lambda: "retry" in stage.events(SMALL), "a job that waits")
        begun_s = stage.loop.time()
        stage.clear_faults()
        await asyncio.sleep(100)
        stepped_s = await set_clock(stage, step_s, restart=restart)
        await comes(stage, lambda: stage.registered(SMALL), stepped_s, REDIRECT_WAIT_S + SLACK_S)
        if not restart:  # the wait has its planned length
            assert abs(stage.loop.time() - begun_s - REDIRECT_WAIT_S) < SLACK_S
        await ends_well(stage, SMALL)

    play(scenario)


# -- holds -----------------------------------------------------------------------------------------


def refused() -> httpx.TransportError:
    return httpx.ConnectError("Connection refused")


def throttled(stage: Stage) -> None:
    stage.inject(
        Rule(
            Fault.ANSWER, count=None, call=Call.PRESIGN, status=429, headers={"Retry-After": "600"}
        )
    )


def offline(stage: Stage) -> None:
    stage.inject(broken=Broken(Call.PRESIGN, refused, everything=True))


def operator(stage: Stage) -> None:
    stage.inject(Rule(Fault.ANSWER, count=None, call=Call.PRESIGN, status=403))


@WHEN
@STEPS
@pytest.mark.parametrize(
    ("kind", "fault", "longest_s"),
    [("throttled", throttled, 660.0), ("offline", offline, 60.0), ("operator", operator, HOUR_S)],
)
def test_I31_F04_hold_is_probed_within_its_own_wait(
    kind: str, fault: Callable[[Stage], None], longest_s: float, step_s: float, restart: bool
) -> None:
    async def scenario(stage: Stage) -> None:
        fault(stage)
        stage.write(SMALL)
        stage.start()
        (hold,) = await stage.until(stage.holds, "a hold")
        assert hold["kind"] == kind
        stage.clear_faults()
        await asyncio.sleep(1)
        stepped_s = await set_clock(stage, step_s, restart=restart)
        await comes(stage, lambda: stage.registered(SMALL), stepped_s, longest_s + SLACK_S)
        await ends_well(stage, SMALL)

    play(scenario)


@WHEN
@STEPS
def test_I31_F04_since_of_a_hold_follows_the_clock(step_s: float, restart: bool) -> None:
    async def scenario(stage: Stage) -> None:
        stage.start()
        await asyncio.sleep(5)
        stage.root.rename(stage.folder / "away")
        stage.hint("", HintKind.RESCAN)
        (hold,) = await stage.until(stage.holds, "a hold")
        assert hold["kind"] == "root"
        await set_clock(stage, step_s, restart=restart)
        await asyncio.sleep(SLACK_S)
        (hold,) = stage.holds()
        ago_s = (stage.clock.now_ms() - hold["since"]) / 1000
        assert ago_s >= 0
        if not restart:
            assert ago_s < 3 * SLACK_S
        (stage.folder / "away").rename(stage.root)
        stage.write(SMALL)
        await comes(stage, lambda: stage.registered(SMALL), stage.loop.time(), SLACK_S)
        await ends_well(stage, SMALL)

    play(scenario)


@STEPS
def test_I31_F04_pause_ends_when_it_is_lifted(step_s: float) -> None:
    async def scenario(stage: Stage) -> None:
        stage.start()
        await asyncio.sleep(5)
        await stage.stop()
        with at_rest(stage) as store:
            store.holds.pause(stage.clock.now_ms())
        stage.start()
        stage.write(SMALL)
        await set_clock(stage, step_s, restart=False)
        await asyncio.sleep(HOUR_S)
        assert not stage.calls()
        await stage.stop()
        with at_rest(stage) as store:
            store.holds.clear(HoldKind.PAUSED)
        stage.start()
        await comes(stage, lambda: stage.registered(SMALL), stage.loop.time(), SLACK_S)
        await ends_well(stage, SMALL)

    play(scenario)


@contextlib.contextmanager
def at_rest(stage: Stage) -> Iterator[Store]:
    """The store of a daemon that does not run."""
    store = Store(str(stage.state))
    try:
        yield store
    finally:
        store.close()


# -- the day's quota -------------------------------------------------------------------------------

QUOTA_S = 25 * HOUR_S
"""An hour counts until all of it is a day ago."""


async def reach_quota(stage: Stage) -> None:
    """Send what a day may take, with a second file left over."""
    stage.settings["limits"] = {"max_bytes_per_day": 9_000}
    stage.settings["upload"] = {"files": 1, "parts": 1}
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: stage.registered(SMALL), "the first file")
    stage.write(OTHER)
    (hold,) = await stage.until(stage.holds, "a hold")
    assert hold["kind"] == "limit"


@WHEN
@STEPS
def test_I31_F04_quota_is_free_again_within_a_day(step_s: float, restart: bool) -> None:
    async def scenario(stage: Stage) -> None:
        await reach_quota(stage)
        stepped_s = await set_clock(stage, step_s, restart=restart)
        if not restart:  # bytes sent still count
            await asyncio.sleep(23 * HOUR_S)
            assert not stage.registered(OTHER)
        await comes(stage, lambda: stage.registered(OTHER), stepped_s, QUOTA_S + SLACK_S)
        await ends_well(stage, SMALL, OTHER)

    play(scenario)


# -- records that have had their time --------------------------------------------------------------

GRACE_S = HOUR_S
TICK_S = 30.0


async def lose_a_file(stage: Stage) -> float:
    """Register two files and delete one, whose record follows after the grace; when that was."""
    stage.settings["catalog"] = {"on_delete": "delete", "delete_grace_s": GRACE_S}
    for path in (SMALL, OTHER):
        stage.write(path)
    stage.start()
    for path in (SMALL, OTHER):
        await stage.arrives(path)
    (stage.root / OTHER).unlink()
    stage.hint(OTHER, HintKind.DELETED)
    gone = "SELECT 1 FROM record WHERE gone_at IS NOT NULL"
    await stage.until(lambda: stage.query(gone), "the loss noticed")
    return stage.loop.time()


def records(stage: Stage) -> int:
    return len(stage.far.cloud.records())


@WHEN
@STEPS
def test_I31_F04_record_is_retired_within_the_grace(step_s: float, restart: bool) -> None:
    async def scenario(stage: Stage) -> None:
        await lose_a_file(stage)
        stepped_s = await set_clock(stage, step_s, restart=restart)
        await comes(stage, lambda: records(stage) == 1, stepped_s, GRACE_S + SLACK_S)
        await ends_well(stage, SMALL)

    play(scenario)


@STEPS
def test_I31_F04_record_is_not_retired_before_the_grace_while_running(step_s: float) -> None:
    async def scenario(stage: Stage) -> None:
        gone_s = await lose_a_file(stage)
        await set_clock(stage, step_s, restart=False)
        await asyncio.sleep(gone_s + GRACE_S - TICK_S - stage.loop.time())
        assert records(stage) == 2
        await stage.until(lambda: records(stage) == 1, "the record's end", TICK_S + SLACK_S)
        await ends_well(stage, SMALL)

    play(scenario)


CALL_AGAIN_S = 300.0


@WHEN
@STEPS
def test_I31_F04_postponed_retirement_is_tried_again_in_time(step_s: float, restart: bool) -> None:
    async def scenario(stage: Stage) -> None:
        gone_s = await lose_a_file(stage)
        stage.inject(Rule(Fault.ANSWER, count=None, call=Call.DELETE_MODEL, status=503))
        await asyncio.sleep(gone_s + GRACE_S - stage.loop.time())
        await stage.until(lambda: "retire_postponed" in stage.log.getvalue(), "a failed call")
        stage.clear_faults()
        stepped_s = await set_clock(stage, step_s, restart=restart)
        # A restart does not know by how much the clock was set, and begins the grace again.
        longest_s = GRACE_S if restart else CALL_AGAIN_S
        await comes(stage, lambda: records(stage) == 1, stepped_s, longest_s + SLACK_S)
        await ends_well(stage, SMALL)

    play(scenario)


@WHEN
@STEPS
def test_I31_F04_abort_is_tried_again_in_time(step_s: float, restart: bool) -> None:
    async def scenario(stage: Stage) -> None:
        stage.inject(
            Rule(Fault.ANSWER, count=None, call=Call.ABORT, status=503),
            Rule(Fault.ANSWER, count=None, call=Call.COMPLETE, status=422),
        )
        stage.write(LARGE)
        stage.start()
        await stage.until(lambda: "abort_postponed" in stage.log.getvalue(), "a failed abort")
        stage.clear_faults()
        stepped_s = await set_clock(stage, step_s, restart=restart)

        def left() -> Any:
            return stage.query("SELECT 1 FROM upload WHERE state = 'unwanted'")

        await comes(stage, lambda: not left(), stepped_s, CALL_AGAIN_S + SLACK_S)
        await stage.stop()

    play(scenario)


@STEPS
def test_I31_F04_new_record_is_compared_after_a_step(step_s: float) -> None:
    """Records from a time that has yet to come are compared with the listing like all others."""

    async def scenario(stage: Stage) -> None:
        stage.write(SMALL)
        stage.start()
        await stage.until(lambda: stage.registered(SMALL), "the record")
        await set_clock(stage, step_s, restart=False)
        checked = "SELECT 1 FROM record WHERE checked_at IS NOT NULL"
        await stage.until(lambda: stage.query(checked), "the comparison", 3 * SLACK_S)
        await ends_well(stage, SMALL)

    play(scenario)


# -- the daemon's own ticks ------------------------------------------------------------------------


@STEPS
def test_I31_F04_rescan_comes_within_its_interval(step_s: float) -> None:
    interval_s = 600.0

    async def scenario(stage: Stage) -> None:
        stage.settings["scan"] = {"interval_s": interval_s}
        stage.start()
        await asyncio.sleep(100)
        stepped_s = await set_clock(stage, step_s, restart=False)
        life, stage.life = stage.life, None  # no event
        stage.write(SMALL)
        stage.life = life
        await comes(stage, lambda: stage.registered(SMALL), stepped_s, interval_s + SLACK_S)
        await ends_well(stage, SMALL)

    play(scenario)


def test_F04_tick_after_a_forward_step_of_years_is_due_once() -> None:
    """A scheduler that goes through every tick in between takes hours, and all memory, for it."""
    now = datetime.now(UTC)
    job = Job(AsyncIOScheduler(), trigger=_Every(5), next_run_time=now)

    assert job._get_run_times(now + timedelta(days=50 * 365)) == [now]
    assert _Every(5).get_next_fire_time(now, now + timedelta(days=1)) == (
        now + timedelta(days=1, seconds=5)
    )
