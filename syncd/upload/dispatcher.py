"""Claims due jobs and runs a worker for each, unless a hold, a pause or the daily quota forbids it."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from syncd.clock import Clock
from syncd.core.files.naming import is_within
from syncd.core.jobs.outcome import Outcome
from syncd.core.transfer.in_flight import fitting
from syncd.errors import StateFull
from syncd.executors import Executors
from syncd.monitoring.webhook import WebhookNotifier
from syncd.store.clock_steps import ClockSteps
from syncd.store.store import Store
from syncd.types import Hint, Job
from syncd.upload.hold_tracker import HoldTracker
from syncd.upload.quota import TransferQuota
from syncd.upload.worker import Worker

ONCE_MAX_WAIT_S = 330.0
"""The longest that a backfill waits for a job's next attempt."""


class Dispatcher:
    """
    Keeps as many workers busy as the settings allow.

    Args:
        wake: Set whenever there may be something to claim.
        large_files: Returns how many large files may be uploaded at once.
        on_ended: Called after each job that a worker ended or gave back.
    """

    def __init__(
        self,
        worker: Worker,
        holds: HoldTracker,
        *,
        store: Store,
        lanes: Executors,
        clock: Clock,
        clock_steps: ClockSteps,
        notifier: WebhookNotifier,
        quota: TransferQuota,
        wake: asyncio.Event,
        owner: str,
        large_files: Callable[[], int],
        on_ended: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._holds = holds
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._clock_steps = clock_steps
        self._notifier = notifier
        self._quota = quota
        self._wake = wake
        self._owner = owner
        self._large_files = large_files
        self._on_ended = on_ended
        self._running: dict[asyncio.Task[Outcome], Job] = {}
        self._pausing = False

    def on_hint(self, hint: Hint) -> None:
        """Let the workers check the files of running jobs that *hint* is about."""
        for job in self._running.values():
            below = hint.folder and is_within(job.rel_path, {hint.rel_path})
            if job.root_id == hint.root_id and (below or job.rel_path == hint.rel_path):
                self._worker.check_file(job.id)

    def wake(self) -> None:
        self._wake.set()

    async def run(
        self,
        *,
        more_comes: Callable[[], bool],
        only: frozenset[int] | None = None,
        send_allowed: Callable[[Job], bool] = lambda job: True,
    ) -> None:
        """
        Run jobs until none is left to run and *more_comes* returns False.

        Args:
            only: The ids of the jobs to run; None: all.
            send_allowed: Returns whether bytes of a job's file may be sent.

        Raises:
            StateError: The store cannot be written.
        """
        await self.reload_holds()
        while True:
            self._wake.clear()
            wait_s = await self._fill_up(only, send_allowed)
            idle = not self._running and not self._wake.is_set()
            if idle and not more_comes() and self._given_up(wait_s):
                return
            await self._wait(wait_s)
            await self._clock_steps.follow()
            await self._reap()

    async def drain(self, grace_s: float, hurry: asyncio.Event) -> None:
        """
        Stop claiming, let running requests end, and give the other jobs back.

        Args:
            grace_s: Seconds that running requests get; *hurry* cuts them short.
        """
        self._worker.wind_down()
        if self._running:
            hurried = asyncio.ensure_future(hurry.wait())
            finished = asyncio.ensure_future(asyncio.wait(self._running))
            timeout = asyncio.ensure_future(self._clock.sleep(grace_s))
            await asyncio.wait({hurried, finished, timeout}, return_when=asyncio.FIRST_COMPLETED)
            for waiter in (hurried, finished, timeout):
                waiter.cancel()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
        # A claim that was cancelled may have been committed, and has no worker to give it back.
        with suppress(StateFull):  # then the next start does it
            await self._lanes.db(self._store.jobs.release_owned, self._owner, self._clock.now_ms())

    async def drop(self, jobs: Collection[int]) -> None:
        """Stop the workers of jobs that were cancelled."""
        ended = [task for task, job in self._running.items() if job.id in jobs]
        for task in ended:
            del self._running[task]
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        if ended:
            self._on_ended()

    async def reload_holds(self) -> None:
        """
        Act on holds that an operator changed in the store.

        At the start of a pause running requests end; when it is over, all jobs continue.
        """
        await self._holds.reload()
        if self._holds.paused and not self._pausing:
            self._worker.wind_down("paused")
            self._pausing = True
        self._wake.set()

    # -- claiming --------------------------------------------------------------------------------

    async def _fill_up(
        self, only: frozenset[int] | None, send_allowed: Callable[[Job], bool]
    ) -> float | None:
        """Start workers for due jobs; seconds until more may be due, None if unknown."""
        if not self._may_claim():
            return None
        while not (self._holds.active and self._running):
            wait_s = await self._quota_wait_s(only) or await self._holds.wait_s()
            if wait_s > 0:
                return wait_s
            jobs, full = await self._lanes.db(
                self._store.jobs.claim, self._owner, self._clock.now_ms(), self._fit(), only=only
            )
            for job in jobs:
                self._running[asyncio.create_task(self._worker.run(job, send_allowed))] = job
            if full:  # a job that fits may become due before a place is free
                return await self._next_due_s(only, after_ms=self._clock.now_ms())
            if not jobs:
                due_s = await self._next_due_s(only)
                if due_s is None and not self._running:
                    self._notifier.queue_empty()
                    await self._holds.end_transient()
                return due_s
        return None

    def _fit(self) -> Callable[[Sequence[int]], int]:
        """Return the function for the store's thread that says how many of the due jobs may start."""
        if self._holds.active:
            return lambda sizes: min(1, len(sizes))
        running = [job.fingerprint.size for job in self._running.values()]
        return partial(fitting, running, large_files=self._large_files())

    def _may_claim(self) -> bool:
        """Whether jobs may be claimed; after a pause only once all earlier jobs have ended."""
        if self._pausing and not self._holds.paused:
            if self._running:
                return False
            self._worker.carry_on()
            self._pausing = False
        return True

    async def _quota_wait_s(self, only: frozenset[int] | None) -> float:
        """Seconds until another body may be sent under ``limits.max_bytes_per_day``."""
        wait_s = await self._quota.wait_s()
        if wait_s == 0 or await self._next_due_s(only) is None:  # or no job waits for it
            await self._holds.end_limit()
            return 0.0
        await self._holds.begin_limit(wait_s)
        return wait_s

    async def _next_due_s(
        self, only: frozenset[int] | None, *, after_ms: int | None = None
    ) -> float | None:
        due_ms = await self._lanes.db(self._store.jobs.next_due_ms, only=only, after_ms=after_ms)
        return None if due_ms is None else max(0.001, (due_ms - self._clock.now_ms()) / 1000)

    def _given_up(self, wait_s: float | None) -> bool:
        """Whether a backfill should not wait for what is left."""
        return self._holds.exhausted or wait_s is None or wait_s > ONCE_MAX_WAIT_S

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
            self._notifier.job_ended(job, outcome)
            await self._holds.learn(job, outcome)
            self._on_ended()
