"""
Tracks holds: the reasons why all jobs wait, and when each of them is probed or ends.

No job is claimed during a hold. When its probe is due, one job may run; the first good answer from the side
that the hold is about ends it. Several network failures in a row become a hold, so that an outage
costs one probe instead of one attempt per file. Several files in a row that fail for the same
server-side reason become a hold as well (a fuse).
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from syncd.clock import Clock
from syncd.cloud.credentials import Credentials
from syncd.core.jobs import retry_policy
from syncd.core.jobs.outcome import End, Outcome, Side
from syncd.errors import JobError, NeedsOperator, RootUnavailable, Throttled
from syncd.executors import Executors
from syncd.monitoring.webhook import WebhookNotifier
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.types import Call, HoldKind, Job, Kind
from syncd.upload.quota import TransferQuota

BREAKER_FAILURES = 10
BREAKER_FAILURES_TWO_JOBS = 5
"""Consecutive failed requests, of one job or of several, that start a hold."""

FUSE_FILES = 5
"""Different files that fail in a row for one server-side reason and start a hold."""

FUSE_PROBE_S = 3600.0
FUSE_ADVICE = "Ask the operator of the cloud what changed. No file is given up until then."

OFFLINE_FIRST_S, OFFLINE_MOST_S = 5.0, 60.0
OFFLINE_ADVICE = (
    "Check the network, api.base_url and network.proxy. Uploads resume when the cloud answers."
)
LIMIT_ADVICE = (
    "Uploads resume by themselves within the day. To resume at once, raise limits.max_bytes_per_day "
    "and reload syncd."
)
CREDENTIAL_CHECK_S = 60.0
"""Interval between checks for a replaced credential when nothing else can end a hold."""

ROOT_WAIT_S = 60.0
PAUSE_WAIT_S = 3600.0
"""Upper bounds only: whatever ends these holds wakes the dispatcher."""

ONCE_PROBES = 2
"""Probes of a transient hold before a backfill leaves the rest for the next run."""


_log = structlog.get_logger(__name__)


class HoldTracker:
    """
    The active holds.

    Args:
        wake: Set whenever jobs may be claimed again.
        describe_permissions: Returns what the cloud says about the account's role and licence.
    """

    def __init__(
        self,
        *,
        store: Store,
        lanes: Executors,
        clock: Clock,
        credentials: Credentials,
        quota: TransferQuota,
        notifier: WebhookNotifier,
        wake: asyncio.Event,
        describe_permissions: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._credentials = credentials
        self._quota = quota
        self._notifier = notifier
        self._wake = wake
        self._describe_permissions = describe_permissions
        self._permissions: str | None = None
        self._holds: list[HoldRow] = []
        self._sides: dict[HoldKind, Side] = {}
        self._failing: dict[Side, list[int]] = {side: [] for side in Side}
        self._fuse: dict[int, None] = {}
        self._fuse_cause: tuple[Kind, Call | None] | None = None
        self._until_credentials_change = False

    # -- state -----------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        return bool(self._holds)

    @property
    def paused(self) -> bool:
        return self._has(HoldKind.PAUSED)

    @property
    def exhausted(self) -> bool:
        """Whether a backfill should stop waiting for the active holds."""
        return self.paused or any(
            hold.needs_operator or hold.probes >= ONCE_PROBES for hold in self._holds
        )

    def _has(self, kind: HoldKind) -> bool:
        return any(hold.kind is kind for hold in self._holds)

    async def reload(self) -> None:
        """Read the holds again after an operator changed them in the store."""
        self._until_credentials_change = False
        self._holds = await self._lanes.db(self._store.holds.all)

    async def wait_s(self) -> float:
        """Seconds until a job may probe the active holds; 0 if it may now or there are none."""
        if not self._holds:
            return 0.0
        if self.paused:
            return PAUSE_WAIT_S
        if self._has(HoldKind.ROOT):
            return ROOT_WAIT_S
        if self._until_credentials_change and not await self._credentials.has_changed():
            return CREDENTIAL_CHECK_S
        self._until_credentials_change = False
        self._holds = await self._lanes.db(self._store.holds.all)  # the clock may have been set
        due_ms = max((hold.probe_at for hold in self._holds), default=0)
        return max(0.0, (due_ms - self._clock.now_ms()) / 1000)

    # -- begin and end ---------------------------------------------------------------------------

    async def begin_root(self, error: RootUnavailable, probe_s: float) -> None:
        """Hold because a root is missing: nothing is read from it."""
        await self._put(HoldKind.ROOT, str(error), None, probe_s)

    async def begin_limit(self, wait_s: float) -> None:
        """Hold because ``limits.max_bytes_per_day`` is reached."""
        if not self._has(HoldKind.LIMIT):
            sent = await self._quota.sent_within_a_day()
            reason = (
                f"{sent} bytes sent within a day; limits.max_bytes_per_day is {self._quota.limit}"
            )
            await self._put(HoldKind.LIMIT, reason, LIMIT_ADVICE, wait_s)

    async def end_limit(self) -> None:
        if self._has(HoldKind.LIMIT):
            await self.end(HoldKind.LIMIT)

    async def end(self, *kinds: HoldKind) -> None:
        for kind in kinds:
            self._sides.pop(kind, None)
        if HoldKind.OPERATOR in kinds:
            self._fuse.clear()
        for hold in await self._lanes.db(self._store.holds.clear, *kinds):
            seconds = (self._clock.now_ms() - hold.since) / 1000
            _log.info("hold.ended", kind=hold.kind, seconds=seconds, probes=hold.probes)
            self._notifier.hold_ended(hold)
        self._holds = await self._lanes.db(self._store.holds.all)
        self._wake.set()

    async def end_transient(self) -> None:
        """End the holds that only a probe can end, because no job is left to probe them."""
        if self._holds:
            await self.end(HoldKind.OFFLINE, HoldKind.THROTTLED, HoldKind.OPERATOR)

    async def contact(self, side: Side) -> None:
        """
        End the holds about *side*, which gave a good answer.

        An answer of the API proves nothing about the object store. A job that already ran when the
        server asked for a pause does not end that pause: only a due probe does.
        """
        self._failing[side].clear()
        now_ms = self._clock.now_ms()
        over = [hold.kind for hold in self._holds if self._ends(hold, side, now_ms)]
        if over:
            await self.end(*over)

    def _ends(self, hold: HoldRow, side: Side, now_ms: int) -> bool:
        # The side of a hold from before this start is unknown: any answer counts.
        about_cloud = hold.kind in (HoldKind.OFFLINE, HoldKind.THROTTLED, HoldKind.OPERATOR)
        if not about_cloud or self._sides.get(hold.kind, side) is not side:
            return False
        return hold.kind is HoldKind.OFFLINE or hold.probe_at <= now_ms

    # -- what outcomes lead to -------------------------------------------------------------------

    async def learn(self, job: Job, outcome: Outcome) -> None:
        """Begin a hold if this outcome, or several like it, calls for one."""
        error = outcome.error
        if outcome.end in (End.REGISTERED, End.ADOPTED):
            self._fuse.clear()
        elif outcome.fuse and error is not None:
            await self._count_fuse(job, error, outcome.end)
        if outcome.end is End.HELD:
            assert error is not None, "a hold has a reason"
            self._until_credentials_change = retry_policy.row_of(error.kind).renews
            await self._put(
                _hold_kind(error), str(error), await self._advice(error), outcome.wait_s,
                side=Side.of(error),
            )  # fmt: skip
        elif error is not None and retry_policy.row_of(error.kind).breaker:
            await self._count_failure(job, error, Side.of(error))

    async def _advice(self, error: JobError) -> str | None:
        """The error's advice; for a forbidden write also who may do it, asked once per hold."""
        if error.kind is not Kind.NOT_ALLOWED or Side.of(error) is not Side.API:
            return error.advice
        if self._permissions is None or not self._has(HoldKind.OPERATOR):
            self._permissions = await self._describe_permissions() or ""
        return " ".join(filter(None, (self._permissions, error.advice)))

    async def _count_fuse(self, job: Job, error: JobError, end: End) -> None:
        """
        Hold once enough files in a row failed for the same reason.

        Jobs that failed for good are queued again, and the hold asks for an operator; so are those that
        fail for that reason until the hold ends. Jobs that are retried anyway wait for the server to
        recover.
        """
        cause = (error.kind, error.call)
        if cause != self._fuse_cause:
            self._fuse.clear()
        self._fuse_cause = cause
        self._fuse[job.id] = None
        if len(self._fuse) < FUSE_FILES:
            return
        reason = f"{FUSE_FILES} files in a row failed for the same reason: {error}"
        advice, side = error.advice or FUSE_ADVICE, Side.of(error)
        if end is not End.FAILED:
            self._fuse.clear()
            await self._put(HoldKind.OFFLINE, reason, advice, OFFLINE_MOST_S, side=side)
            return
        failing = tuple(self._fuse)
        await self._lanes.db(
            self._store.jobs.requeue_failed, self._clock.now_ms(), reason=reason, only=failing
        )
        self._notifier.jobs_requeued(failing)
        await self._put(HoldKind.OPERATOR, reason, advice, FUSE_PROBE_S, side=side)

    async def _count_failure(self, job: Job, error: JobError, side: Side) -> None:
        failing = self._failing[side]
        failing += [job.id] * retry_policy.row_of(error.kind).tries
        jobs, failures = len(set(failing)), len(failing)
        limit = BREAKER_FAILURES_TWO_JOBS if jobs > 1 else BREAKER_FAILURES
        if failures < limit and not self._has(HoldKind.OFFLINE):
            return
        now_ms = self._clock.now_ms()
        probes = max((hold.probes + (hold.probe_at <= now_ms) for hold in self._holds), default=0)
        wait_s = min(OFFLINE_MOST_S, OFFLINE_FIRST_S * 2.0 ** min(probes, 10))
        advice = error.advice or OFFLINE_ADVICE
        await self._put(HoldKind.OFFLINE, str(error), advice, wait_s, side=side)
        # The hold's probe decides when to try again, not the back-off of a single job.
        await self._lanes.db(self._store.jobs.make_due, job, self._clock.now_ms())

    async def _put(
        self,
        kind: HoldKind,
        reason: str,
        advice: str | None,
        wait_s: float,
        *,
        side: Side | None = None,
    ) -> None:
        if side is not None:
            self._sides[kind] = side
        begins = not self._has(kind)
        now_ms = self._clock.now_ms()
        row = await self._lanes.db(
            self._store.holds.put,
            kind,
            reason=reason,
            advice=advice,
            probe_at=now_ms + int(wait_s * 1000),
            now_ms=now_ms,
        )
        self._holds = await self._lanes.db(self._store.holds.all)
        if begins:
            _log.error("hold.started", kind=kind, reason=reason, advice=advice)
            self._notifier.hold_started(row)


def _hold_kind(error: JobError) -> HoldKind:
    match error:
        case Throttled():
            return HoldKind.THROTTLED
        case NeedsOperator():
            return HoldKind.OPERATOR
        case _:
            return HoldKind.OFFLINE
