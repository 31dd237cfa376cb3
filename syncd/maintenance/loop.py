"""Regular work in addition to ingest and uploads: aborts, retirements, the catalog, waiting jobs."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from syncd.clock import Clock
from syncd.executors import Executors
from syncd.maintenance.abort_uploads import UploadAborter
from syncd.maintenance.reconcile import Reconciler
from syncd.maintenance.retire_records import RecordCleanup
from syncd.store.clock_steps import ClockSteps
from syncd.store.store import Store


@dataclass(kw_only=True, slots=True)
class MaintenanceLoop:
    """
    Runs all maintenance each time it is woken.

    Args:
        woken: Set when there is something to do.
        reconcile_due: Whether the first pass compares the records with the whole catalog.
        check_credentials: Loads a replaced credential and keeps an idle session alive.
        on_jobs_freed: Called when jobs may be claimed that had to wait.
    """

    store: Store
    lanes: Executors
    clock: Clock
    clock_steps: ClockSteps
    aborter: UploadAborter
    retirement: RecordCleanup
    reconciler: Reconciler
    woken: asyncio.Event
    reconcile_due: bool
    check_credentials: Callable[[], Awaitable[None]]
    on_jobs_freed: Callable[[], None]

    def wake(self) -> None:
        self.woken.set()

    def reconcile(self) -> None:
        """Compare the records with the whole catalog in the next pass, which starts now."""
        self.reconcile_due = True
        self.woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self.clock_steps.follow()
            await self.clean_up()
            await self._free_jobs()
            await self.check_credentials()
            await self.woken.wait()
            self.woken.clear()

    async def clean_up(self) -> None:
        """Abort uploads, retire records and compare with the catalog, once."""
        await self.aborter.abort_unwanted()
        await self.retirement.retire_due()
        await self._reconcile()

    async def clean_up_after_plan(self) -> None:
        """Abort uploads and check the records that a plan made; retire nothing else."""
        await self.aborter.abort_unwanted()
        await self.reconciler.reconcile_new()

    async def _reconcile(self) -> None:
        if await self.lanes.db(self.store.holds.all):
            return  # the cloud does not answer us, or a root is missing
        due, self.reconcile_due = self.reconcile_due, False
        await (self.reconciler.reconcile() if due else self.reconciler.reconcile_new())

    async def _free_jobs(self) -> None:
        now_ms, jobs = self.clock.now_ms(), self.store.jobs
        if await self.lanes.db(jobs.free_bundles, now_ms):
            self.on_jobs_freed()
