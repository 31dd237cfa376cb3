"""
Claims jobs, runs workers, and keeps still while a hold is in force.

A hold stops claiming. When its probe is due one job is let through; the first answer from the API
as it should be ends the hold. Failures of the network that several requests in a row met become a
hold of their own, so that an outage costs one probe and not one try for each file.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any

import structlog

from syncd.clock import Clock
from syncd.cloud.credentials import Credentials
from syncd.core.files.naming import is_within
from syncd.core.jobs import retry_policy
from syncd.core.jobs.outcome import End, Outcome, Side
from syncd.errors import JobError, NeedsOperator, Offline, RootUnavailable, StateFull, Throttled
from syncd.executors import Executors
from syncd.monitoring.webhook import WebhookNotifier
from syncd.store.clock_steps import ClockSteps
from syncd.store.jobs import LEASE_TTL_MS
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.types import Call, Hint, HoldKind, Job, Kind
from syncd.upload.quota import TransferQuota
from syncd.upload.worker import Worker

BREAKER_FAILURES = 10
BREAKER_FAILURES_TWO_JOBS = 5
"""Requests failing in a row, by one job or by several, that make a hold."""

FUSE_FILES = 5
"""Different files failing in a row for one server-side reason that make a hold (a fuse)."""

FUSE_PROBE_S = 3600.0
FUSE_ADVICE = "Ask the operator of the cloud what changed; nothing is given up meanwhile."

OFFLINE_FIRST_S, OFFLINE_MOST_S = 5.0, 60.0
OFFLINE_ADVICE = (
    "Check the network, api.base_url and network.proxy. Work goes on by itself once it answers."
)
CLOUD_HOLDS = (HoldKind.OFFLINE, HoldKind.THROTTLED, HoldKind.OPERATOR)
"""Holds that an answer of the cloud can end."""

LIMIT_ADVICE = (
    "It goes on by itself as the day moves on. To go on at once raise limits.max_bytes_per_day "
    "and reload syncd."
)
CREDENTIAL_LOOK_S = 60.0
"""How often a replaced credential is looked for while nothing else would end a hold."""

ROOT_WAIT_S = 60.0
"""Nothing has to be looked at while a root is missing: the intake ends that hold, and says so."""

PAUSE_LOOK_S = 3600.0
"""Nothing has to be looked at while paused: whoever ends it wakes the dispatcher."""

ONCE_PROBES = 2
"""How often a backfill probes a hold that may pass before it leaves the rest for later."""

ONCE_PATIENCE_S = 330.0
"""The longest a backfill waits for a job's next attempt."""


_log = structlog.get_logger(__name__)


class Dispatcher:
    """
    Keeps as many workers busy as the settings allow.

    Args:
        announcer: Told of what somebody elsewhere may want to know.
        hands: Jobs at once.
        standing: What the cloud says of the account's role and licence, for a hold's advice.
        on_ended: Called after each job that a worker let go of.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        store: Store,
        lanes: Executors,
        clock: Clock,
        clock_steps: ClockSteps,
        credentials: Credentials,
        allowance: TransferQuota,
        announcer: WebhookNotifier,
        owner: str,
        hands: int,
        on_ended: Callable[[], None],
        standing: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._worker = worker
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._clock_steps = clock_steps
        self._credentials = credentials
        self._allowance = allowance
        self._announcer = announcer
        self._owner = owner
        self._most = hands
        self._on_ended = on_ended
        self._standing = standing
        self._explained: str | None = None
        self._wake = asyncio.Event()
        self._running: dict[asyncio.Task[Outcome], Job] = {}
        self._holds: list[HoldRow] = []
        self._failing: dict[Side, list[int]] = {side: [] for side in Side}
        self._sides: dict[str, Side] = {}
        self._blown: dict[int, None] = {}
        self._blown_for: tuple[Kind, Call | None] | None = None
        self._until_credentials_change = False
        self._winding_down = False

    def use(self, hands: int) -> None:
        """From now on so many jobs at once; with fewer than before those under way still end."""
        self._most = hands
        self._wake.set()

    def heard(self, hint: Hint) -> None:
        """Stop sending the files of running jobs that *hint* is about, if they changed."""
        for job in self._running.values():
            below = hint.folder and is_within(job.rel_path, {hint.rel_path})
            if job.root_id == hint.root_id and (below or job.rel_path == hint.rel_path):
                self._worker.check_file(job.id)

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def run(self, *, more_comes: Callable[[], bool]) -> None:
        """
        Work until nothing is left to do and *more_comes* says that nothing will be added.

        Raises:
            StateError: The store cannot be written.
        """
        await self.look_at_holds()
        while True:
            self._wake.clear()
            wait_s = await self._fill_up()
            idle = not self._running and not self._wake.is_set()
            if idle and not more_comes() and self._given_up(wait_s):
                return
            await self._wait(wait_s)
            await self._clock_steps.follow()
            await self._reap()

    async def drain(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Claim nothing more; let what is on the wire end within *grace_s*, then give the rest back."""
        self._worker.wind_down()
        if self._running:
            rushed = asyncio.ensure_future(hurry.wait())
            calm = asyncio.ensure_future(asyncio.wait(self._running))
            nap = asyncio.ensure_future(self._clock.sleep(grace_s))
            await asyncio.wait({rushed, calm, nap}, return_when=asyncio.FIRST_COMPLETED)
            for waiter in (rushed, calm, nap):
                waiter.cancel()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
        # A claim that was under way when the claiming ended has no worker to give it back.
        with suppress(StateFull):  # then the next start finds it
            await self._lanes.db(self._store.jobs.release_owned, self._owner, self._clock.now_ms())

    # -- claiming --------------------------------------------------------------------------------

    async def _fill_up(self) -> float | None:
        """Start workers while there are free hands and due jobs; seconds until more may be due."""
        if not self._carry_on():
            return None
        while len(self._running) < (1 if self._holds else self._most):
            wait_s = await self._full_s() or await self._hold_wait_s()
            if wait_s > 0:
                return wait_s
            job = await self._lanes.db(
                self._store.jobs.claim, self._owner, self._clock.now_ms(), LEASE_TTL_MS
            )
            if job is None:
                due_s = await self._next_due_s()
                if due_s is None and not self._running:
                    self._announcer.queue_empty()
                    if self._holds:
                        await self.end_hold(*CLOUD_HOLDS)  # no job waits for the cloud
                return due_s
            task = asyncio.create_task(self._worker.run(job))
            self._running[task] = job
        return None

    async def _next_due_s(self) -> float | None:
        due_ms = await self._lanes.db(self._store.jobs.next_due_ms)
        return None if due_ms is None else max(0.001, (due_ms - self._clock.now_ms()) / 1000)

    async def _full_s(self) -> float:
        """Seconds until another body may leave under ``limits.max_bytes_per_day``."""
        wait_s = await self._allowance.wait_s()
        held = any(hold.kind is HoldKind.LIMIT for hold in self._holds)
        if wait_s == 0 or await self._next_due_s() is None:  # or nobody waits for it
            if held:
                await self.end_hold(HoldKind.LIMIT)
            return 0.0
        if not held:
            size = await self._allowance.left()
            reason = f"{size} bytes left within a day; limits.max_bytes_per_day is {self._allowance.limit}"
            await self._put(HoldKind.LIMIT, reason, LIMIT_ADVICE, wait_s, side=None)
        return wait_s

    async def _hold_wait_s(self) -> float:
        """Seconds until a job may probe the holds in force; 0 if there are none or it may."""
        if not self._holds:
            return 0.0
        if self._paused:
            return PAUSE_LOOK_S
        if any(hold.kind is HoldKind.ROOT for hold in self._holds):
            return ROOT_WAIT_S
        if self._until_credentials_change and not await self._credentials.has_changed():
            return CREDENTIAL_LOOK_S
        self._until_credentials_change = False
        self._holds = await self._lanes.db(self._store.holds.all)  # the clock may have been set
        due_ms = max((hold.probe_at for hold in self._holds), default=0)
        return max(0.0, (due_ms - self._clock.now_ms()) / 1000)

    def _given_up(self, wait_s: float | None) -> bool:
        """Nothing is due, or nothing that a backfill waits for."""
        if self._paused or any(
            hold.needs_person or hold.probes >= ONCE_PROBES for hold in self._holds
        ):
            return True
        return wait_s is None or wait_s > ONCE_PATIENCE_S

    async def _wait(self, wait_s: float | None) -> None:
        waiters: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._wake.wait())}
        if wait_s is not None:
            waiters.add(asyncio.ensure_future(self._clock.sleep(wait_s)))
        try:
            await asyncio.wait({*waiters, *self._running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()

    async def _reap(self) -> None:
        for task in [task for task in self._running if task.done()]:
            job, outcome = self._running.pop(task), task.result()
            await self._learn(job, outcome)
            self._on_ended()

    # -- holds -----------------------------------------------------------------------------------

    @property
    def _paused(self) -> bool:
        return any(hold.kind is HoldKind.PAUSED for hold in self._holds)

    async def drop(self, jobs: Collection[int]) -> None:
        """These jobs are not ours any more: whoever works at them stops."""
        ended = [task for task, job in self._running.items() if job.id in jobs]
        for task in ended:
            del self._running[task]
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        if ended:
            self._on_ended()

    async def look_at_holds(self) -> None:
        """
        A person changed something in the store: what is probed is due, a pause began or ended.

        At a pause what is on the wire ends; when it is over all goes on.
        """
        self._until_credentials_change = False
        self._holds = await self._lanes.db(self._store.holds.all)
        if self._paused and not self._winding_down:
            self._worker.wind_down("paused")
            self._winding_down = True
        self._wake.set()

    def _carry_on(self) -> bool:
        """May jobs be claimed? After a pause not before the last one of before it was let go."""
        if self._winding_down and not self._paused:
            if self._running:
                return False
            self._worker.carry_on()
            self._winding_down = False
        return True

    async def begin_hold(self, error: RootUnavailable, probe_s: float) -> None:
        """Hold for the sake of the root: nothing is read from a tree that is not there."""
        await self._put(HoldKind.ROOT, str(error), None, probe_s, side=None)

    async def end_hold(self, *kinds: HoldKind) -> None:
        """What everything waited for is over."""
        for kind in kinds:
            self._sides.pop(kind, None)
        for hold in await self._lanes.db(self._store.holds.clear, *kinds):
            seconds = (self._clock.now_ms() - hold.since) / 1000
            _log.info("hold.ended", kind=hold.kind, seconds=seconds, probes=hold.probes)
            self._announcer.hold_ended(hold)
        self._holds = await self._lanes.db(self._store.holds.all)
        self._wake.set()

    async def contact(self, side: Side) -> None:
        """
        One side of the cloud answered as it should: what waited for that side is over.

        An API that answers says nothing of a store that is down. A job that was under way when the
        server asked for a pause does not end that pause: only a due probe does.
        """
        self._failing[side].clear()
        now_ms = self._clock.now_ms()
        over = [hold.kind for hold in self._holds if self._ends(hold, side, now_ms)]
        if over:
            await self.end_hold(*over)

    def _ends(self, hold: HoldRow, side: Side, now_ms: int) -> bool:
        # Of a hold from before this start it is not known which side it waits for.
        if (
            hold.kind in (HoldKind.ROOT, HoldKind.LIMIT, HoldKind.PAUSED)
            or self._sides.get(hold.kind, side) is not side
        ):
            return False
        return hold.kind is HoldKind.OFFLINE or hold.probe_at <= now_ms

    async def _learn(self, job: Job, outcome: Outcome) -> None:
        error = outcome.error
        self._announcer.job_ended(job, outcome)
        if outcome.end in (End.REGISTERED, End.ADOPTED):
            self._blown.clear()
        elif outcome.fuse and error is not None:
            await self._count_fuse(job, error, outcome.end)
        if outcome.end is End.HELD:
            assert error is not None, "a hold has a reason"
            self._until_credentials_change = retry_policy.row_of(error.kind).renews
            await self._put(
                _kind_of(error), str(error), await self._advice(error), outcome.wait_s,
                side=Side.of(error),
            )  # fmt: skip
        elif error is not None and retry_policy.row_of(error.kind).breaker:
            await self._count_failure(job, error, Side.of(error))

    async def _advice(self, error: JobError) -> str | None:
        """What to do; of a write that is not allowed also who may, asked once in a hold."""
        if error.kind is not Kind.NOT_ALLOWED or Side.of(error) is not Side.API:
            return error.advice
        if self._explained is None or not any(
            hold.kind is HoldKind.OPERATOR for hold in self._holds
        ):
            self._explained = await self._standing() or ""
        return " ".join(filter(None, (self._explained, error.advice)))

    async def _count_fuse(self, job: Job, error: JobError, end: End) -> None:
        """
        Hold once enough files in a row failed for the same reason.

        Jobs that failed for good are queued again, and an operator has to look. Jobs that are
        retried anyway wait for the server to recover.
        """
        cause = (error.kind, error.call)
        if cause != self._blown_for:
            self._blown.clear()
        self._blown_for = cause
        self._blown[job.id] = None
        if len(self._blown) < FUSE_FILES:
            return
        reason = f"{FUSE_FILES} files in a row failed for the same reason: {error}"
        advice, side = error.advice or FUSE_ADVICE, Side.of(error)
        if end is not End.FAILED:
            self._blown.clear()
            await self._put(HoldKind.OFFLINE, reason, advice, OFFLINE_MOST_S, side=side)
            return
        await self._lanes.db(
            self._store.jobs.requeue_failed, self._clock.now_ms(), reason=reason, only=self._blown
        )
        self._announcer.jobs_requeued(self._blown)
        self._blown.clear()
        await self._put(HoldKind.OPERATOR, reason, advice, FUSE_PROBE_S, side=side)

    async def _count_failure(self, job: Job, error: JobError, side: Side) -> None:
        failing = self._failing[side]
        failing += [job.id] * retry_policy.row_of(error.kind).tries
        jobs, failures = len(set(failing)), len(failing)
        held = any(hold.kind is HoldKind.OFFLINE for hold in self._holds)
        if held or failures >= (BREAKER_FAILURES_TWO_JOBS if jobs > 1 else BREAKER_FAILURES):
            probes = max((hold.probes + 1 for hold in self._holds), default=0)
            wait_s = min(OFFLINE_MOST_S, OFFLINE_FIRST_S * 2.0 ** min(probes, 10))
            await self._put(
                HoldKind.OFFLINE, str(error), error.advice or OFFLINE_ADVICE, wait_s, side=side
            )
            # The hold's probe decides when to try again, not the back-off of a single job.
            await self._lanes.db(self._store.jobs.make_due, job, self._clock.now_ms())

    async def _put(
        self, kind: HoldKind, reason: str, advice: str | None, wait_s: float, *, side: Side | None
    ) -> None:
        if side is not None:
            self._sides[kind] = side
        now_ms = self._clock.now_ms()
        probe_at = now_ms + int(wait_s * 1000)
        row = await self._lanes.db(
            self._store.holds.put,
            kind,
            reason=reason,
            advice=advice,
            probe_at=probe_at,
            now_ms=now_ms,
        )
        self._holds = await self._lanes.db(self._store.holds.all)
        if row.probes == 0:
            _log.error("hold.started", kind=kind, reason=reason, advice=advice)
            self._announcer.hold_started(row)


def _kind_of(error: JobError) -> HoldKind:
    match error:
        case Offline():
            return HoldKind.OFFLINE
        case Throttled():
            return HoldKind.THROTTLED
        case NeedsOperator():
            return HoldKind.OPERATOR
        case _:
            return HoldKind.OFFLINE
