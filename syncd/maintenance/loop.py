"""The regular work beside ingest and uploads: aborts, retirements, the catalog, waiting jobs."""

import asyncio
from collections.abc import Awaitable, Callable

from syncd.clock import Clock
from syncd.executors import Executors
from syncd.maintenance.abort_uploads import UploadAborter
from syncd.maintenance.reconcile import Reconciler
from syncd.maintenance.retire_records import RecordCleanup
from syncd.store.clock_steps import ClockSteps
from syncd.store.store import Store


class MaintenanceLoop:
    """
    Runs all maintenance each time it is woken.

    Args:
        wake: Set when there is something to do.
        reconcile: Whether the first pass compares the records with the whole catalog.
        check_credentials: Loads a replaced credential and keeps an idle session alive.
        on_jobs_freed: Called when jobs may be claimed that had to wait.
    """

    def __init__(
        self,
        *,
        store: Store,
        lanes: Executors,
        clock: Clock,
        clock_steps: ClockSteps,
        aborter: UploadAborter,
        retirement: RecordCleanup,
        reconciler: Reconciler,
        wake: asyncio.Event,
        reconcile: bool,
        check_credentials: Callable[[], Awaitable[None]],
        on_jobs_freed: Callable[[], None],
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._clock_steps = clock_steps
        self._aborter = aborter
        self._retirement = retirement
        self._reconciler = reconciler
        self._wake = wake
        self._reconcile_due = reconcile
        self._check_credentials = check_credentials
        self._on_jobs_freed = on_jobs_freed

    def wake(self) -> None:
        self._wake.set()

    def reconcile(self) -> None:
        """Compare the records with the whole catalog in the next pass, which starts now."""
        self._reconcile_due = True
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._clock_steps.follow()
            await self.clean_up()
            await self._free_jobs()
            await self._check_credentials()
            await self._wake.wait()
            self._wake.clear()

    async def clean_up(self) -> None:
        """Abort uploads, retire records and compare with the catalog, once."""
        await self._aborter.abort_unwanted()
        await self._retirement.retire_due()
        await self._reconcile()

    async def clean_up_after_plan(self) -> None:
        """Abort uploads and check the records that a plan made; retire nothing else."""
        await self._aborter.abort_unwanted()
        await self._reconciler.reconcile_new()

    async def _reconcile(self) -> None:
        if await self._lanes.db(self._store.holds.all):
            return  # the cloud does not answer us, or a root is missing
        due, self._reconcile_due = self._reconcile_due, False
        await (self._reconciler.reconcile() if due else self._reconciler.reconcile_new())

    async def _free_jobs(self) -> None:
        now_ms, jobs = self._clock.now_ms(), self._store.jobs
        if await self._lanes.db(jobs.free_bundles, now_ms):
            self._on_jobs_freed()
