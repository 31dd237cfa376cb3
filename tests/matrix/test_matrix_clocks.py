"""
Row 4 of ``matrix.md``, and promise I31: no wait is longer because the wall clock was set.

The clock is set in both directions during each wait, while the daemon runs and between two runs, and
the wait has to end within its own maximum from then on.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from apscheduler.job import Job
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from syncd.daemon.service import _Every
from syncd.sandbox.faults import Fault, Rule
from syncd.store.store import Store
from syncd.types import Call, HintKind, HoldKind
from tests.matrix.stage import HOUR_S, LARGE, OTHER, SMALL, Broken, Stage, play, staged

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


async def comes(
    stage: Stage, condition: Callable[[], object], since_s: float, within_s: float
) -> None:
    """Require *condition* to become true within *within_s* after *since_s*."""
    while not condition():
        assert stage.loop.time() < since_s + within_s, stage.report()
        await asyncio.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Wait:
    """
    A wait of the daemon.

    Args:
        begin: Starts the daemon, and returns once it waits.
        over: Whether the wait has ended.
        longest_s, restart_s: The maximum after the step; after a restart, if another.
        least_s: The minimum from the end of ``begin`` on, unless the daemon was restarted.
        left: The files that are registered afterwards.
    """

    begin: Callable[[Stage], Awaitable[None]]
    over: Callable[[Stage], object]
    longest_s: float
    restart_s: float | None = None
    least_s: float = 0.0
    left: tuple[str, ...] = (SMALL,)


async def back_off(stage: Stage) -> None:
    """A redirect of the store, after which the job waits 900 s (row 26)."""
    stage.inject(Rule(Fault.REDIRECT, count=None, call=Call.PUT_BODY))
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: "retry" in stage.events(SMALL), "a job that waits")
    stage.clear_faults()
    await asyncio.sleep(100)


def hold(
    kind: str, *rules: Rule, broken: Broken | None = None
) -> Callable[[Stage], Awaitable[None]]:
    """The start of a hold whose cause then ends."""

    async def begin(stage: Stage) -> None:
        stage.inject(*rules, broken=broken)
        stage.write(SMALL)
        stage.start()
        (held,) = await stage.until(stage.holds, "a hold")
        assert held["kind"] == kind
        stage.clear_faults()
        await asyncio.sleep(1)

    return begin


def refused() -> httpx.TransportError:
    return httpx.ConnectError("Connection refused")


def answer(call: Call, status: int, **more: object) -> Rule:
    return Rule(Fault.ANSWER, count=None, call=call, status=status, **more)  # type: ignore[arg-type]


async def reach_quota(stage: Stage) -> None:
    """Send what a day may take, with a second file left over."""
    stage.settings["limits"] = {"max_bytes_per_day": 9_000}
    stage.settings["upload"] = {"files": 1, "parts": 1}
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: stage.registered(SMALL), "the first file")
    stage.write(OTHER)
    (held,) = await stage.until(stage.holds, "a hold")
    assert held["kind"] == "limit"


GRACE_S = HOUR_S
TICK_S = 30.0
CALL_AGAIN_S = 300.0


async def lose_a_file(stage: Stage) -> None:
    """Register two files and delete one; its record is deleted after the grace."""
    stage.settings["catalog"] = {"on_delete": "delete", "delete_grace_s": GRACE_S}
    await stage.begin(SMALL, OTHER)
    (stage.root / OTHER).unlink()
    stage.hint(OTHER, HintKind.DELETED)
    gone = "SELECT 1 FROM record WHERE gone_at IS NOT NULL"
    await stage.until(lambda: stage.query(gone), "the loss noticed")


async def postpone_retirement(stage: Stage) -> None:
    await lose_a_file(stage)
    stage.inject(answer(Call.DELETE_MODEL, 503))
    await stage.until(lambda: "retire_postponed" in stage.log.getvalue(), "a failed call")
    stage.clear_faults()


async def postpone_abort(stage: Stage) -> None:
    stage.inject(answer(Call.ABORT, 503), answer(Call.COMPLETE, 422))
    stage.write(LARGE)
    stage.start()
    await stage.until(lambda: "abort_postponed" in stage.log.getvalue(), "a failed abort")
    stage.clear_faults()


def is_retired(stage: Stage) -> bool:
    return len(stage.far.cloud.records()) == 1


def is_aborted(stage: Stage) -> bool:
    return not stage.query("SELECT 1 FROM upload WHERE state = 'unwanted'")


WAITS = {
    "back-off": Wait(back_off, lambda stage: stage.registered(SMALL), 900, least_s=800 - SLACK_S),
    "throttled": Wait(
        hold("throttled", answer(Call.PRESIGN, 429, headers={"Retry-After": "600"})),
        lambda stage: stage.registered(SMALL), 660,
    ),
    "offline": Wait(
        hold("offline", broken=Broken(Call.PRESIGN, refused, everything=True)),
        lambda stage: stage.registered(SMALL), 60,
    ),
    "operator": Wait(
        hold("operator", answer(Call.PRESIGN, 403)), lambda stage: stage.registered(SMALL), HOUR_S
    ),
    # An hour counts until all of it is a day ago.
    "quota": Wait(reach_quota, lambda stage: stage.registered(OTHER), 25 * HOUR_S,
                  least_s=23 * HOUR_S, left=(SMALL, OTHER)),
    "grace": Wait(lose_a_file, is_retired, GRACE_S, least_s=GRACE_S - TICK_S),
    # A restart does not know by how much the clock was set, and begins the grace again.
    "retirement": Wait(postpone_retirement, is_retired, CALL_AGAIN_S, restart_s=GRACE_S),
    "abort": Wait(postpone_abort, is_aborted, CALL_AGAIN_S, left=()),
}  # fmt: skip


@WHEN
@STEPS
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@staged()
async def test_I31_F04_wait_keeps_its_bounds_after_the_clock_was_set(
    stage: Stage, wait: Wait, step_s: float, restart: bool
) -> None:
    await wait.begin(stage)
    begun_s = stage.loop.time()
    stepped_s = await set_clock(stage, step_s, restart=restart)
    longest_s = wait.restart_s if restart and wait.restart_s else wait.longest_s
    await comes(stage, lambda: wait.over(stage), stepped_s, longest_s + SLACK_S)

    assert restart or stage.loop.time() - begun_s >= wait.least_s
    if wait.left:
        await stage.finish(*wait.left)


@WHEN
@STEPS
@staged()
async def test_I31_F04_since_of_a_hold_follows_the_clock(
    stage: Stage, step_s: float, restart: bool
) -> None:
    stage.start()
    await asyncio.sleep(5)
    stage.root.rename(stage.folder / "away")
    stage.hint("", HintKind.RESCAN)
    (held,) = await stage.until(stage.holds, "a hold")
    assert held["kind"] == "root"
    await set_clock(stage, step_s, restart=restart)
    await asyncio.sleep(SLACK_S)
    (held,) = stage.holds()
    ago_s = (stage.clock.now_ms() - held["since"]) / 1000
    assert ago_s >= 0
    assert restart or ago_s < 3 * SLACK_S
    (stage.folder / "away").rename(stage.root)
    stage.write(SMALL)
    await comes(stage, lambda: stage.registered(SMALL), stage.loop.time(), SLACK_S)


@STEPS
def test_I31_F04_pause_ends_when_it_is_lifted(step_s: float) -> None:
    @contextlib.contextmanager
    def store_of(stage: Stage) -> Iterator[Store]:
        store = Store(str(stage.state))
        yield store
        store.close()

    async def scenario(stage: Stage) -> None:
        with store_of(stage) as store:
            store.holds.pause(stage.clock.now_ms())
        stage.start()
        stage.write(SMALL)
        await set_clock(stage, step_s, restart=False)
        await asyncio.sleep(HOUR_S)
        assert not stage.calls()
        await stage.stop()
        with store_of(stage) as store:
            store.holds.clear(HoldKind.PAUSED)
        stage.start()
        await comes(stage, lambda: stage.registered(SMALL), stage.loop.time(), SLACK_S)

    play(scenario)


@STEPS
@staged()
async def test_I31_F04_new_record_is_compared_after_a_step(stage: Stage, step_s: float) -> None:
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: stage.registered(SMALL), "the record")
    await set_clock(stage, step_s, restart=False)
    checked = "SELECT 1 FROM record WHERE checked_at IS NOT NULL"
    await stage.until(lambda: stage.query(checked), "the comparison", 3 * SLACK_S)


@STEPS
@staged()
async def test_I31_F04_rescan_comes_within_its_interval(stage: Stage, step_s: float) -> None:
    interval_s = 600.0
    stage.settings["scan"] = {"interval_s": interval_s}
    stage.start()
    await asyncio.sleep(100)
    stepped_s = await set_clock(stage, step_s, restart=False)
    with stage.without_events():
        stage.write(SMALL)
    await comes(stage, lambda: stage.registered(SMALL), stepped_s, interval_s + SLACK_S)


def test_F04_tick_after_a_forward_step_of_years_is_due_once() -> None:
    """A scheduler that goes through every tick in between takes hours, and all memory, for it."""
    now = datetime.now(UTC)
    job = Job(AsyncIOScheduler(), trigger=_Every(5), next_run_time=now)

    assert job._get_run_times(now + timedelta(days=50 * 365)) == [now]
    assert _Every(5).get_next_fire_time(now, now + timedelta(days=1)) == (
        now + timedelta(days=1, seconds=5)
    )
