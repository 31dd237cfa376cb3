"""
Builds the service, supervises its tasks, handles signals, and stops in the reverse order.

One event loop owns all decisions. Its main tasks are the ingest loop, the dispatcher and the
maintenance loop. Ticks of the scheduler only set events.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from syncd.clock import Clock, SystemClock
from syncd.config.credential import CredentialSource
from syncd.config.loader import Loaded
from syncd.config.reload import LiveSettings
from syncd.config.settings import Settings
from syncd.core.exit_codes import exit_code
from syncd.core.jobs.retry_policy import LATEST_S
from syncd.daemon.components import (
    Components,
    Factories,
    Resources,
    build_components,
    open_store,
)
from syncd.daemon.reload import Reloader
from syncd.daemon.systemd import SystemdNotifier, SystemdReporter
from syncd.disk_full import DiskFullRetry
from syncd.errors import RootUnavailable, StateFull
from syncd.fs.watcher import Watcher
from syncd.ingest.comparer import Root
from syncd.ingest.loop import ROOT_CHECK_S
from syncd.monitoring.progress import Meter
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.types import HeldClass, Hint, HoldKind

if TYPE_CHECKING:
    from syncd.core.catalog.plan_file import Line
    from syncd.daemon.apply_plan import Applied

WATCH_RETRY_S = 300.0  # between attempts to restart a dead watcher
LAST_LOOK_S = 10.0  # a stop waits this long for the scan thread
ONCE_FULL_S = 60.0  # a backfill waits this long for space on the state disk
LAST_WORDS_S, LAST_WORDS_ONCE_S = 2.0, 10.0  # for notifications, after a stop and a backfill
CLOCK_LOOK_S = 10.0  # between checks whether the wall clock was set

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Ending:
    """What a backfill could not do, for its summary."""

    unsettled: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    root_error: str | None = None


class _Every(BaseTrigger):  # type: ignore[misc]  # without types
    """
    Fires every *seconds*.

    Counts from now, never from the previous tick: after a forward step of the wall clock the
    scheduler would otherwise compute every tick in between.
    """

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        return now + self._interval


class Service:
    """
    The daemon, or one backfill of it.

    Args:
        settings: Checked settings.
        source: Where the credential comes from; read again when the credential is refused.
        meter: Counts bytes and requests for progress displays.
        once: Stop as soon as everything that can be done is done.
        jitter: Draws from [0, 1).
        latest_s: Seconds after which a request whose answer was lost cannot take effect any more.
        factories: Replace the outside world in tests.
        notifier: The service manager, if there is one.
        reread: Reads the configuration again, for a reload; None: there is no reload.
    """

    def __init__(
        self,
        settings: Settings,
        source: CredentialSource,
        *,
        meter: Meter,
        once: bool = False,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        latest_s: float = LATEST_S,
        factories: Factories | None = None,
        notifier: SystemdNotifier | None = None,
        reread: Callable[[], Loaded] | None = None,
    ) -> None:
        self._factories = factories or Factories()
        self._source = source
        self._meter = meter
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._latest_s = latest_s
        self._is_once = once
        self._disk_full = DiskFullRetry(self._clock, limit_s=ONCE_FULL_S if once else None)
        self._lanes = self._factories.lanes(settings, self._disk_full)
        self._notifier = notifier or SystemdNotifier()
        self._live = LiveSettings(settings)
        self._reloader = Reloader(self._live, reread=reread, notifier=self._notifier)
        self._scan_hangs = False
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._signal = 0
        self._ready = False
        self._watcher: Watcher | None = None
        self._scheduler: AsyncIOScheduler | None = None
        self.ending = Ending()

    async def run(self) -> int:
        """
        Run until stopped, or with ``once`` until everything that can be done is done.

        Returns:
            The exit code: 0, 1, 66, 75, 77, 130 or 143.

        Raises:
            AlreadyRunning, StateError: The state directory cannot be used.
        """

        async def run_mode(components: Components) -> int:
            code = await (self._once(components) if self._is_once else self._forever(components))
            await self._last_words(components, well=self._is_once and code == 0)
            return code

        return await self._run(run_mode)

    async def apply(self, lines: "Sequence[Line]") -> "Applied":
        """
        Apply a plan, and do nothing else.

        Raises:
            AlreadyRunning, StateError: The state directory cannot be used.
            RootUnavailable: A root is not there, or on another file system than before.
        """
        from syncd.daemon.apply_plan import Applied

        applied = Applied()

        async def run_mode(components: Components) -> int:
            nonlocal applied
            applied = await self._apply(components, lines)
            await self._last_words(components, well=False)  # it says nothing of the other files
            return applied.exit_code

        await self._run(run_mode)
        applied.signal_code = self._signal_code()
        applied.sent = self._meter.sent
        return applied

    async def _run(self, run_mode: Callable[[Components], Awaitable[int]]) -> int:
        store = open_store(self._live.settings)
        try:
            with self._signals():
                return await self._with_store(store, run_mode)
        except StateFull:
            if not self._signal:
                raise
            return self._signal_code()  # stopped while it waited for room
        finally:
            await self._close(store)
            self._lanes.close()

    async def _close(self, store: Store) -> None:
        """Close the store; if the scan thread hangs on a dead disk, leave that to the end of the process."""
        if await self._scan_thread_did(store.stop_reading):
            await self._lanes.db(store.close)

    async def _scan_thread_did(self, last: Callable[[], None]) -> bool:
        """Run *last* on the scan thread; False if the thread hangs."""
        if self._scan_hangs:
            return False
        try:
            async with asyncio.timeout(LAST_LOOK_S):
                await self._lanes.scan(last)
        except TimeoutError:
            self._scan_hangs = True
        return not self._scan_hangs

    def stop(self) -> None:
        """Stop as on a first SIGTERM; called again, as on a second."""
        if self._stop.is_set():
            self._hurry.set()
        self._notifier.stopping()
        self._stop.set()
        self._disk_full.give_up()

    # -- the two ways to run ---------------------------------------------------------------------

    async def _once(self, components: Components) -> int:
        """Scan, wait until files settle, and empty the queue; return the exit code."""
        self._ready = True
        self._notifier.ready()
        scanning = asyncio.create_task(components.ingest.scan())
        try:
            await self._until_stopped(
                components, {scanning, *self._side_tasks(components)}, enough={scanning}
            )
        except RootUnavailable as error:
            self.ending.root_error = str(error)
            _log.error("root.unavailable", reason=str(error))
            return error.exit_code
        if self._stop.is_set():
            return self._signal_code()
        await components.holds.end(HoldKind.ROOT)
        until_s = self._clock.boottime_s() + self._once_wait_s(components.roots)
        settling = asyncio.create_task(components.ingest.settle(until_s))
        working = asyncio.create_task(
            components.dispatcher.run(more_comes=partial(components.ingest.more_comes, until_s))
        )
        tasks = {settling, working, *self._side_tasks(components)}
        await self._run_until_stopped(components, tasks, enough={working})
        if not self._stop.is_set():
            await components.maintenance.clean_up()
        self.ending.problems = components.ingester.problems
        self.ending.unsettled = {
            components.roots[root_id].display_path(rel_path): observation.blocked_by
            or "it still changes"
            for (root_id, rel_path), observation in components.ingester.tracker.unsettled().items()
        }
        return self._signal_code() or await self._exit_code(components)

    async def _apply(self, components: Components, lines: "Sequence[Line]") -> "Applied":
        """Queue the lines that still match, and run their jobs."""
        applier = components.applier()
        await components.ingester.require_roots()
        await applier.begin(lines, stopped=self._stop.is_set)
        working = asyncio.create_task(
            components.dispatcher.run(
                more_comes=lambda: False, only=applier.jobs, send_allowed=applier.send_allowed
            )
        )
        await self._run_until_stopped(components, {working}, enough={working})
        if not self._stop.is_set():
            await components.maintenance.clean_up_after_plan()
        return await applier.end()

    async def _forever(self, components: Components) -> int:
        loop = asyncio.get_running_loop()

        def on_hint(hint: Hint) -> None:  # in the watcher's thread
            if components.changes.add(hint):
                loop.call_soon_threadsafe(components.changes.wake)
            loop.call_soon_threadsafe(components.dispatcher.on_hint, hint)

        watcher = self._factories.watcher(
            self._live.settings,
            {root.id: root.path for root in components.roots.values()},
            on_hint,
        )
        self._watcher = watcher
        scheduler = self._scheduler = self._schedule(components, watcher)
        try:
            await components.ingest.start_watching(watcher)
            scheduler.start()
            self._ready = True
            _log.info("service.started", roots=[root.path for root in components.roots.values()])
            self._notifier.ready()
            tasks = {
                asyncio.create_task(components.ingest.run(watcher)),
                asyncio.create_task(components.dispatcher.run(more_comes=lambda: True)),
                asyncio.create_task(components.maintenance.run()),
                asyncio.create_task(self._reloader.run(components)),
                *self._side_tasks(components, watcher),
            }
            await self._run_until_stopped(components, tasks, enough=tasks)
        finally:
            if scheduler.running:
                scheduler.shutdown(wait=False)
            await self._scan_thread_did(watcher.stop)
        _log.info("service.stopped")
        return self._signal_code()

    async def _run_until_stopped(
        self,
        components: Components,
        tasks: set[asyncio.Task[None]],
        *,
        enough: set[asyncio.Task[None]],
    ) -> None:
        """Run the tasks, then drain the workers; without a grace period if a task failed."""
        grace_s = 0.0
        try:
            await self._until_stopped(components, tasks, enough=enough)
            grace_s = self._live.settings.upload.shutdown_grace_s
        finally:
            await components.dispatcher.drain(grace_s, self._hurry)

    async def _until_stopped(
        self,
        components: Components,
        tasks: set[asyncio.Task[None]],
        *,
        enough: set[asyncio.Task[None]],
    ) -> None:
        """Wait for a stop or the end of one of *enough*; a task that died ends the service."""
        stop = asyncio.create_task(self._wait_for_stop())
        pending: set[asyncio.Task[None]] = {*tasks, stop}
        try:
            while not any(task.done() for task in (*enough, stop)):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            if self._stop.is_set():
                components.ingester.stop()
            for task in (*tasks, stop):
                task.cancel()
            results = await asyncio.gather(*tasks, stop, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def _wait_for_stop(self) -> None:
        await self._stop.wait()

    def _once_wait_s(self, roots: Mapping[int, Root]) -> float:
        settings = self._live.settings.settle
        windows_s = [settings.quiet_s, settings.quiet_closed_s]
        if any(root.network for root in roots.values()):
            windows_s.append(settings.quiet_network_s)
        return settings.once_wait_for(max(windows_s))

    # -- ticks ------------------------------------------------------------------------------------

    def _schedule(self, components: Components, watcher: Watcher) -> AsyncIOScheduler:
        """Schedule the ticks, which only set events."""
        reconcile_s = self._live.settings.catalog.reconcile_s
        scheduler = AsyncIOScheduler(
            timezone="UTC",
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

        # Coroutines: plain functions would run in a thread, and an event is set in the loop's only.
        async def rescan() -> None:
            components.ingest.rescan()

        async def look_after() -> None:
            components.dispatcher.wake()
            components.maintenance.wake()

        async def watch_again() -> None:
            if not watcher.alive():
                components.ingest.restart_watcher()

        async def look_around() -> None:
            components.ingest.check_roots()

        async def reconcile() -> None:
            components.maintenance.reconcile()

        for tick, seconds in (
            (rescan, self._live.settings.scan.interval_s),
            (look_after, 30),
            (watch_again, WATCH_RETRY_S),
            (look_around, ROOT_CHECK_S),
            *([(reconcile, reconcile_s)] if reconcile_s else []),
        ):
            # Named, since ticks of one moment run in the order of their names; else that is random.
            scheduler.add_job(tick, _Every(seconds), id=tick.__name__)
        return scheduler

    async def _watch_clock(self, components: Components) -> None:
        while True:
            await self._clock.sleep(CLOCK_LOOK_S)
            await components.clock_steps.follow()

    def _restart_ticks(self) -> None:
        """Reschedule all ticks, since the scheduler follows the wall clock."""
        if self._scheduler is not None and self._scheduler.running:
            for job in self._scheduler.get_jobs():
                job.reschedule(job.trigger)

    def _side_tasks(
        self, components: Components, watcher: Watcher | None = None
    ) -> set[asyncio.Task[None]]:
        """Return the auxiliary tasks: ComfyUI, the clock, notifications, the service manager."""
        tasks = {
            asyncio.create_task(components.comfyui_throttle.run()),
            asyncio.create_task(self._watch_clock(components)),
        }
        if components.notifier.is_configured:
            all_is_well = None if watcher is None else partial(self._all_is_well, components)
            tasks.add(asyncio.create_task(components.notifier.run(all_is_well=all_is_well)))
        if not self._notifier.is_heard:
            return tasks

        def is_watched() -> bool:
            if watcher is None or watcher.alive() or watcher.degraded is not None:
                return True
            components.ingest.restart_watcher()
            return False

        reporter = SystemdReporter(
            self._notifier,
            store=components.store,
            lanes=self._lanes,
            clock=self._clock,
            meter=self._meter,
            bandwidth=components.sending,
            scanned=lambda: None if components.ingest.scanned else components.ingester.files_seen,
            is_watched=is_watched,
        )
        return {*tasks, asyncio.create_task(reporter.run())}

    # -- start and state -------------------------------------------------------------------------

    async def _with_store(
        self, store: Store, run_mode: Callable[[Components], Awaitable[int]]
    ) -> int:
        resources = Resources(
            self._live,
            self._source,
            store,
            self._lanes,
            self._clock,
            self._jitter,
            self._meter,
            self._latest_s,
            self._is_once,
            on_clock_step=self._restart_ticks,
            state_hold=self._state_hold,
            unready=self._unready,
            watch_mode=self._watch_mode,
        )
        async with build_components(resources, self._factories) as components:
            await self._free(store)
            async with self._factories.control(self._live.settings, components.control):
                return await run_mode(components)

    async def _free(self, store: Store) -> None:
        """Free the jobs that the previous run left claimed or waiting."""
        now_ms = self._clock.now_ms()
        await self._lanes.db(store.times.bound, now_ms)
        await self._lanes.db(store.jobs.expire_all, now_ms)
        if self._is_once:  # a backfill does not wait for the back-off of its jobs
            await self._lanes.db(store.jobs.make_all_due, now_ms)
        await self._lanes.db(store.jobs.start_over, now_ms)
        await self._lanes.db(store.holds.probe_now, now_ms)
        # A session, a higher limit or other multipart paths may allow large files now.
        await self._lanes.db(store.jobs.free_class, HeldClass.LARGE, now_ms)

    def _unready(self) -> list[str]:
        """Why the service is not ready."""
        reasons = [] if self._ready else ["it is starting"]
        if self._stop.is_set():
            reasons.append("it is stopping")
        if self._disk_full.waiting:
            reasons.append("there is no room on the disk of the state directory")
        return reasons

    def _state_hold(self) -> HoldRow | None:
        """The hold of a full state disk, which cannot be stored."""
        disk_full = self._disk_full
        if not disk_full.waiting:
            return None
        reason = disk_full.reason or "there is no room on the disk of the state directory"
        advice = "Free space on that disk; syncd then continues by itself."
        return HoldRow(
            HoldKind.STATE, disk_full.since_ms, reason, advice, self._clock.now_ms(), probes=0
        )

    def _watch_mode(self) -> str:
        if self._watcher is None or not self._watcher.alive():
            return "scans"
        return "degraded" if self._watcher.degraded else "events"

    # -- ends ------------------------------------------------------------------------------------

    async def _last_words(self, components: Components, *, well: bool) -> None:
        within_s = LAST_WORDS_S if self._stop.is_set() else LAST_WORDS_ONCE_S
        await components.notifier.flush(well=well, within_s=within_s)

    async def _all_is_well(self, components: Components) -> bool:
        """Return whether every wanted file is in the catalog and no hold is active."""
        return components.ingest.scanned and await self._exit_code(components) == 0

    async def _exit_code(self, components: Components) -> int:
        store, ingester = components.store, components.ingester
        holds = await self._lanes.db(store.holds.all)
        return exit_code(
            await self._lanes.db(store.report.counts),
            holds=[hold.kind for hold in holds],
            unsettled=len(ingester.tracker.unsettled()),
            unread=len(ingester.problems),
            bundled=await self._lanes.db(store.report.bundled),
            root_missing=self.ending.root_error is not None,
        )

    def _signal_code(self) -> int:
        return 128 + self._signal if self._signal else 0

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop, a second one skips the grace; SIGHUP reloads a daemon."""
        loop = asyncio.get_running_loop()

        def handle(number: int) -> None:
            self._signal = number
            _log.info("service.stopping", signal=signal.Signals(number).name)
            self.stop()

        handlers: dict[int, Callable[[], None]] = {
            number: partial(handle, number) for number in (signal.SIGTERM, signal.SIGINT)
        }
        if self._reloader.available and not self._is_once:
            handlers[signal.SIGHUP] = self._reloader.request
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
