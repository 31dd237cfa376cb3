"""
Builds everything, starts it in order, and stops it in the reverse.

One asyncio loop owns all decisions. Three tasks share it: the intake (hints, walks, settling), the
dispatcher (claims jobs, runs workers) and the janitor (ends uploads that nobody wants). Ticks of the
scheduler only set events.
"""

import asyncio
import os
import random
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from syncd import api as cloud_api
from syncd import log, scan, storage
from syncd.allowance import Allowance
from syncd.announce import Announcer, Receiver, Receivers
from syncd.applying import Applied, Applier
from syncd.auth import Credentials
from syncd.bandwidth import Bandwidth
from syncd.catalog import PROOFS, Catalog, shows
from syncd.clock import Clock, SystemClock
from syncd.compare import Comparer, Root
from syncd.config import (
    JUDGING,
    CredentialSource,
    Loaded,
    Settings,
    extra_folders,
    reloaded,
    require_claimed,
    rules_for,
    shown,
    value_at,
)
from syncd.connect import connect, host_policy, network
from syncd.control import Desk, serve
from syncd.core import bandwidth, retry, settle
from syncd.core.agenda import Line
from syncd.core.ending import exit_code
from syncd.core.judge import Rules
from syncd.core.news import signing_key
from syncd.core.responses import to_error
from syncd.core.standing import standing
from syncd.core.tree import Folder, Tree
from syncd.core.width import Width
from syncd.dispatch import Dispatcher
from syncd.errors import ConfigError, JobError, RootUnavailable, StateError, StateFull, SyncdError
from syncd.expected import expected_sha256
from syncd.guest import Courtesy, Manner
from syncd.herald import Herald
from syncd.hints import Hints
from syncd.intake import Intake
from syncd.janitor import Janitor
from syncd.lanes import Lanes, Slots
from syncd.model import Call, Hint, HintKind, Job, Kind, Session, printable
from syncd.notify import Notifier
from syncd.patience import Patience
from syncd.progress import Meter, Tally
from syncd.reconcile import Reconciler
from syncd.retirement import Policy, Retirement
from syncd.store import Store
from syncd.transfer import HostRule, Transfer
from syncd.watch import Watcher
from syncd.worker import Limits, Worker

LARGEST_WAIT_MS = int(retry.RETRY_AFTER_MAX_S * 1100)
"""No wait in the database is longer; one that is was written under another clock."""

WATCH_RETRY_S = 300.0
"""Between tries to watch again, and the rescans that make up for it."""

ROOT_LOOK_S = 5.0
"""Between looks whether a root is there, and is the folder that is watched."""

ONCE_FULL_S = 60.0
"""How long a backfill waits for room on the state disk."""


FILES_MOST = 16
"""``upload.files`` at most, whatever a reload brings: a thread begins when there is work for it."""

LAST_WORDS_S, LAST_WORDS_ONCE_S = 2.0, 10.0
"""How long what was not told yet may take at the end: of a run that is stopped, and of a backfill."""

SLEEP_NOTICED_S = 1.0
"""A shorter sleep of the machine hides in the difference of two clocks."""


@dataclass(slots=True)
class Ending:
    """What a run left behind beside the store, for its last words."""

    unsettled: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    root_error: str | None = None


@dataclass(slots=True)
class _Parts:
    """What is built for one run."""

    roots: dict[int, Root]
    store: Store
    credentials: Credentials
    allowance: Allowance
    announcer: Announcer
    intake: Intake
    dispatcher: Dispatcher
    janitor: Janitor
    retirement: Retirement
    reconciler: Reconciler
    worker: Worker
    transfer: Transfer
    applier: Applier
    desk: Desk


@dataclass(frozen=True, slots=True)
class Doors:
    """How a service meets the world: its threads, its HTTP clients, the kernel's hints, its callers."""

    lanes: Callable[[Settings], Lanes] = lambda settings: Lanes(
        files=FILES_MOST, slots=storage.CONNECTIONS
    )
    api: Callable[[Settings], cloud_api.Client] = lambda settings: cloud_api.build_client(
        **network(settings)
    )
    objects: Callable[[Settings], storage.Client] = lambda settings: storage.build_client(
        **network(settings)
    )
    watcher: Callable[[Settings, Mapping[int, str], Callable[[Hint], None]], Watcher] = (
        lambda settings, roots, on_hint: Watcher(
            roots, on_hint, follow_links=settings.scan.symlinks != "skip"
        )
    )
    control: Callable[[Settings, Desk], AbstractAsyncContextManager[None]] = lambda settings, desk: (
        serve(desk, settings.http.address)
    )


class Service:
    """
    The daemon, or one backfill of it.

    Args:
        settings: Checked settings.
        source: Where the credential comes from; read again when the credential is refused.
        meter: Counts what happens, for whoever draws it.
        jitter: Draws from [0, 1).
        doors: Other ways out, for a world that is not this machine.
        notifier: The service manager, if there is one.
        reread: Reads the configuration again, for a reload; None: there is no reload.
    """

    def __init__(
        self,
        settings: Settings,
        source: CredentialSource,
        *,
        meter: Meter,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        doors: Doors = Doors(),
        notifier: Notifier | None = None,
        reread: Callable[[], Loaded] | None = None,
    ) -> None:
        self._settings = settings
        self._doors = doors
        self._source = source
        self._team_id: str | None = None
        self._foreign_key: str | None = None
        self._trouble: str | None = None
        self._meter = meter
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._log = structlog.get_logger("syncd.service")
        self._lanes = doors.lanes(settings)
        self._notifier = notifier or Notifier()
        self._sending = Bandwidth(bandwidth.parse(settings.upload.bandwidth), self._clock)
        self._reading = Bandwidth(bandwidth.parse(settings.guest.hash_bandwidth), self._clock)
        self._courtesy = Courtesy(
            _manner(settings),
            sending=self._sending,
            reading=self._reading,
            meter=meter,
            clock=self._clock,
            ca_bundle=network(settings)["ca_bundle"],
        )
        self._hints = Hints(self._clock)
        self._wake_janitor = asyncio.Event()
        self._reload = asyncio.Event()
        self._reread = reread
        self._rescan = self._restart = self._start_over = self._looking = self._walked = False
        self._look_at_catalog = settings.catalog.reconcile_s > 0
        self._asleep_s = self._clock.suspended_s()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._signal = 0
        self._ready = False
        self._watcher: Watcher | None = None
        self.ending = Ending()

    async def run(self, *, once: bool) -> int:
        """
        Run until stopped, or with *once* until everything that can be done is done.

        Returns:
            The exit code: 0, 1, 66, 75, 77, 130 or 143.

        Raises:
            AlreadyRunning, StateError: The state directory cannot be used.
        """

        async def way(parts: _Parts) -> int:
            code = await (self._once(parts) if once else self._forever(parts))
            await self._last_words(parts, well=once and code == 0)
            return code

        return await self._run(way, once=once)

    async def apply(self, lines: Sequence[Line]) -> Applied:
        """
        Let a plan happen, and nothing else.

        Raises:
            AlreadyRunning, StateError: The state directory cannot be used.
            RootUnavailable: A root is not there, or on another file system than before.
        """
        applied = Applied()

        async def way(parts: _Parts) -> int:
            nonlocal applied
            applied = await self._apply(parts, lines)
            await self._last_words(parts, well=False)  # it says nothing of the other files
            return applied.exit_code

        await self._run(way, once=True)
        applied.signal_code = self._signal_code()
        return applied

    async def _run(self, way: Callable[["_Parts"], Awaitable[int]], *, once: bool) -> int:
        store = _open_store(os.fspath(self._settings.state_dir))
        self._lanes.patience = Patience(self._clock, limit_s=ONCE_FULL_S if once else None)
        try:
            with self._signals(once=once):
                return await self._with_store(store, way, once=once)
        except StateFull:
            if not self._signal:
                raise
            return self._signal_code()  # stopped while it waited for room
        finally:
            await self._lanes.db(store.close)
            self._lanes.close()

    def stop(self) -> None:
        """Stop as on a first SIGTERM; called again, as on a second."""
        if self._stop.is_set():
            self._hurry.set()
        self._notifier.stopping()
        self._stop.set()
        if self._lanes.patience is not None:
            self._lanes.patience.give_up()

    # -- the two ways to run ---------------------------------------------------------------------

    async def _once(self, parts: _Parts) -> int:
        """Walk, wait for what settles, empty the queue; the exit code says what is left."""
        self._ready = True
        self._notifier.ready()
        walking = asyncio.create_task(self._walk_all(parts))
        try:
            await self._until_stopped(parts, {walking, *self._besides(parts)}, enough={walking})
        except RootUnavailable as error:
            self.ending.root_error = str(error)
            self._log.error("root.unavailable", why=str(error))
            return error.exit_code
        if self._stop.is_set():
            return self._signal_code()
        await parts.dispatcher.end_hold("root")
        until_s = self._clock.boottime_s() + self._once_wait_s(parts.roots)

        def more_comes() -> bool:
            in_time = self._clock.boottime_s() < until_s
            waiting = self._looking or bool(self._hints)
            return waiting or (in_time and bool(parts.intake.unsettled()))

        settling = asyncio.create_task(self._settle(parts, until_s))
        working = asyncio.create_task(parts.dispatcher.run(more_comes=more_comes))
        tasks = {settling, working, *self._besides(parts)}
        await self._run_until_stopped(parts, tasks, enough={working})
        if not self._stop.is_set():
            await parts.janitor.clean_up()
            await parts.retirement.retire_due()
            await self._reconcile(parts)
        self.ending.problems = parts.intake.problems
        self.ending.unsettled = {
            parts.roots[root_id].shown(rel_path): watching.blocked_by or "it still changes"
            for (root_id, rel_path), watching in parts.intake.unsettled().items()
        }
        return self._signal_code() or await self._exit_code(
            parts.store,
            unsettled=len(self.ending.unsettled),
            unread=len(self.ending.problems),
        )

    async def _apply(self, parts: _Parts, lines: Sequence[Line]) -> Applied:
        """Queue what still stands, and let the workers end it."""
        applier = parts.applier
        for root in parts.roots.values():
            await parts.intake.require_root(root)
        await applier.begin(lines, stopped=self._stop.is_set)
        parts.worker.may_send = applier.may_send
        working = asyncio.create_task(parts.dispatcher.run(more_comes=lambda: False))
        await self._run_until_stopped(parts, {working}, enough={working})
        if not self._stop.is_set():
            await parts.janitor.clean_up()
            await parts.reconciler.look_at_new()
        return await applier.end()

    async def _walk_all(self, parts: _Parts) -> None:
        for root in parts.roots.values():
            await parts.intake.walk(root)
        self._walked = True

    async def _forever(self, parts: _Parts) -> int:
        loop = asyncio.get_running_loop()

        def on_hint(hint: Hint) -> None:  # in the watcher's thread
            if self._hints.add(hint):
                loop.call_soon_threadsafe(self._hints.wake)

        watcher = self._doors.watcher(
            self._settings, {root.id: root.path for root in parts.roots.values()}, on_hint
        )
        self._watcher = watcher
        scheduler = self._schedule(parts, watcher)
        try:
            await self._start_watching(watcher)
            scheduler.start()
            self._ready = True
            self._log.info("service.started", roots=[root.path for root in parts.roots.values()])
            self._notifier.ready()
            tasks = {
                asyncio.create_task(self._take_in(parts, watcher)),
                asyncio.create_task(parts.dispatcher.run(more_comes=lambda: True)),
                asyncio.create_task(self._clean_up(parts)),
                asyncio.create_task(self._reloads(parts)),
                *self._besides(parts, watcher),
            }
            await self._run_until_stopped(parts, tasks, enough=tasks)
        finally:
            if scheduler.running:
                scheduler.shutdown(wait=False)
            await self._lanes.scan(watcher.stop)
        self._log.info("service.stopped")
        return self._signal_code()

    async def _run_until_stopped(
        self, parts: _Parts, tasks: set[asyncio.Task[None]], *, enough: set[asyncio.Task[None]]
    ) -> None:
        """Run, then let the workers end; at once where something died."""
        grace_s = 0.0
        try:
            await self._until_stopped(parts, tasks, enough=enough)
            grace_s = self._settings.upload.shutdown_grace_s
        finally:
            await parts.dispatcher.drain(grace_s, self._hurry)

    async def _until_stopped(
        self, parts: _Parts, tasks: set[asyncio.Task[None]], *, enough: set[asyncio.Task[None]]
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
                parts.intake.stop()
            for task in (*tasks, stop):
                task.cancel()
            results = await asyncio.gather(*tasks, stop, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def _wait_for_stop(self) -> None:
        await self._stop.wait()

    # -- intake ----------------------------------------------------------------------------------

    async def _take_in(self, parts: _Parts, watcher: Watcher) -> None:
        """Hints, walks and settling, for ever."""
        everything = [Hint(id_, "", HintKind.RESCAN, folder=True) for id_ in parts.roots]
        self._rescan = True
        while True:
            if self._restart or await self._lanes.scan(watcher.moved):
                await self._watch_again(watcher)
            hints = self._hints.take()
            if self._slept() or self._start_over:
                self._rescan, self._start_over = True, False
                parts.intake.start_over()
            if self._rescan:
                self._rescan, hints = False, everything
            try:
                await parts.intake.look(hints)
                self._walked = True
                await parts.intake.settle_due()
                if hints:
                    await parts.dispatcher.end_hold("root")
            except RootUnavailable as error:
                await parts.dispatcher.begin_hold(error, ROOT_LOOK_S)
                self._rescan = True
                await self._hints.nap(ROOT_LOOK_S)
                continue
            await self._hints.nap(self._seconds_until(parts.intake.next_look_s()))

    def _slept(self) -> bool:
        """Has the machine been asleep since this was asked last? Nobody heard what happened then."""
        before_s, self._asleep_s = self._asleep_s, self._clock.suspended_s()
        slept_s = self._asleep_s - before_s
        if slept_s < SLEEP_NOTICED_S:
            return False
        self._log.info("service.resumed", asleep_s=round(slept_s))
        return True

    async def _settle(self, parts: _Parts, until_s: float) -> None:
        """``--once``: look again at what moves, as often as it asks for it; until cancelled."""
        while True:
            hints = self._hints.take()
            self._looking = True  # a hint that is being looked at is still to come
            await parts.intake.look(hints)
            await parts.intake.settle_due()
            self._looking = False
            parts.dispatcher.wake()
            now_s = self._clock.boottime_s()
            waits = [until_s - now_s] if until_s > now_s else []
            look_at_s = parts.intake.next_look_s()
            if look_at_s is not None:  # it may be due by now: looking at the others took its time
                waits.append(max(0.0, look_at_s - now_s))
            await self._hints.nap(min(waits, default=None))

    async def _watch_again(self, watcher: Watcher) -> None:
        """The observer ended, or a root is another folder than before."""
        self._log.warning("watch.restarted")
        await self._lanes.scan(watcher.stop)
        await self._start_watching(watcher)
        self._restart, self._rescan = False, True

    async def _start_watching(self, watcher: Watcher) -> None:
        await self._lanes.scan(watcher.start)
        if watcher.degraded:
            self._log.warning("watch.degraded", why=watcher.degraded)

    def _hint(self, hint: Hint) -> None:
        self._hints.add(hint)
        self._hints.wake()

    def _look_again(self, job: Job) -> None:
        self._hint(Hint(job.root_id, job.rel_path, HintKind.RESCAN))

    def _seconds_until(self, at_s: float | None) -> float | None:
        return None if at_s is None else max(0.0, at_s - self._clock.boottime_s())

    def _once_wait_s(self, roots: Mapping[int, Root]) -> float:
        settings = self._settings.settle
        windows_s = [settings.quiet_s, settings.quiet_closed_s]
        if any(root.network for root in roots.values()):
            windows_s.append(settings.quiet_network_s)
        return settings.once_wait_for(max(windows_s))

    # -- the rest of the loop --------------------------------------------------------------------

    async def _clean_up(self, parts: _Parts) -> None:
        while True:
            await parts.janitor.clean_up()
            await parts.retirement.retire_due()
            await self._reconcile(parts)
            now_ms, jobs = self._clock.now_ms(), parts.store.jobs
            again = await self._lanes.db(jobs.read_again, now_ms)
            if again + await self._lanes.db(jobs.free_bundles, now_ms):
                parts.dispatcher.wake()
            await self._mind_credentials(parts)
            await self._wake_janitor.wait()
            self._wake_janitor.clear()

    async def _mind_credentials(self, parts: _Parts) -> None:
        """Take up and prove what was put in place meanwhile; keep a session alive that nobody uses."""
        await self._look_at_credential(parts)
        try:
            await parts.credentials.ready()
        except JobError as error:
            told = {"error": str(error), "advice": error.advice}
            if str(error) == self._trouble:
                pass
            elif parts.credentials.is_session:
                self._log.error("session.ended", **told)
            else:
                self._log.error("credential.unproved", **told)
            self._trouble = str(error)
        else:
            self._trouble = None

    async def _look_at_credential(self, parts: _Parts) -> None:
        """Another one may lie there by now; then what waited for one goes on."""
        credentials = parts.credentials
        if not await credentials.look():
            return
        self._log.info("credential.replaced", kind=credentials.kind)
        self._team_id = await self._lanes.db(
            require_same_cloud, parts.store, self._settings, credentials.team_id
        )
        if credentials.is_session:
            await self._lanes.db(parts.store.jobs.free_class, "large", self._clock.now_ms())
        await parts.dispatcher.end_hold("operator")

    async def _reconcile(self, parts: _Parts) -> None:
        """Look at the whole listing where that is due, else for the sake of new records only."""
        if await self._lanes.db(parts.store.holds.all):
            return  # the cloud cannot be asked, or not by us; or the tree is not there
        due, self._look_at_catalog = self._look_at_catalog, False
        await (parts.reconciler.look() if due else parts.reconciler.look_at_new())

    # -- reload ----------------------------------------------------------------------------------

    async def _reloads(self, parts: _Parts) -> None:
        """Read the configuration again whenever that is asked for."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            assert self._reread is not None, "else nobody could ask"
            self._notifier.reloading()
            try:
                loaded = await asyncio.to_thread(self._reread)
            except SyncdError as error:  # all of it, or nothing
                self._log.error("config.reload_refused", why=str(error))
            else:
                await self._take_over(parts, loaded)
            self._notifier.ready()

    async def _take_over(self, parts: _Parts, loaded: Loaded) -> None:
        """Go on with what can be changed while transfers run, and name the rest."""
        result = reloaded(self._settings, loaded.settings)
        settings = self._settings = result.settings
        log.configure(format=settings.log.format, level=settings.log.level)
        self._sending.follow(bandwidth.parse(settings.upload.bandwidth))
        self._reading.follow(bandwidth.parse(settings.guest.hash_bandwidth))
        self._courtesy.take(_manner(settings))
        parts.allowance.limit = settings.limits.max_bytes_per_day
        parts.intake.retune(_windows(settings), read_lease=settings.settle.read_lease)
        self._rescan |= not JUDGING.isdisjoint(result.changed)
        self._start_over |= any(key.startswith("settle.") for key in result.changed)
        self._hints.wake()
        self._source = replace(loaded.credential, team_id=settings.api.team_id)
        await self._look_at_credential(parts)
        parts.dispatcher.use(settings.upload.files)
        parts.transfer.use(settings.upload.parts, settings.upload.parts_max)
        self._log.info("config.reloaded", changed=result.changed)
        if result.left:
            self._log.warning("config.reload_needs_restart", keys=result.left)

    def _schedule(self, parts: _Parts, watcher: Watcher) -> AsyncIOScheduler:
        """Ticks set events and nothing else."""
        reconcile_s = self._settings.catalog.reconcile_s
        scheduler = AsyncIOScheduler(
            timezone="UTC",
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

        # Coroutines: plain functions would run in a thread, and an event is set in the loop's only.
        async def rescan() -> None:
            self._rescan = True
            self._hints.wake()

        async def look_after() -> None:
            parts.dispatcher.wake()
            self._wake_janitor.set()

        async def watch_again() -> None:
            if not watcher.alive():
                self._restart = True
                self._hints.wake()

        async def look_at_root() -> None:
            self._hints.wake()

        async def reconcile() -> None:
            self._look_at_catalog = True
            self._wake_janitor.set()

        for tick, seconds in (
            (rescan, self._settings.scan.interval_s),
            (look_after, 30),
            (watch_again, WATCH_RETRY_S),
            (look_at_root, ROOT_LOOK_S),
            *([(reconcile, reconcile_s)] if reconcile_s else []),
        ):
            # Named, since ticks of one moment run in the order of their names; else that is random.
            scheduler.add_job(tick, "interval", seconds=seconds, id=tick.__name__)
        return scheduler

    def _besides(self, parts: _Parts, watcher: Watcher | None = None) -> set[asyncio.Task[None]]:
        """What runs beside the work: manners, messages, a herald where a service manager listens."""
        tasks = {asyncio.create_task(self._courtesy.run())}
        if parts.announcer.is_heard:
            tasks.add(asyncio.create_task(parts.announcer.run(beats=watcher is not None)))
        if not self._notifier.is_heard:
            return tasks

        def is_watched() -> bool:
            if watcher is None or watcher.alive() or watcher.degraded is not None:
                return True
            self._restart = True
            self._hints.wake()
            return False

        herald = Herald(
            self._notifier,
            store=parts.store,
            lanes=self._lanes,
            clock=self._clock,
            meter=self._meter,
            bandwidth=self._sending,
            walked=lambda: None if self._walked else parts.intake.seen,
            is_watched=is_watched,
        )
        return {*tasks, asyncio.create_task(herald.run())}

    # -- building --------------------------------------------------------------------------------

    async def _with_store(
        self, store: Store, way: Callable[[_Parts], Awaitable[int]], *, once: bool
    ) -> int:
        now_ms = self._clock.now_ms()
        credentials = Credentials(self._current, keeper=self._source.stored, clock=self._clock)
        # Whoever starts a backfill wants it now, not when a job's back-off has passed.
        longest_ms = 0 if once else LARGEST_WAIT_MS
        self._team_id = await self._lanes.db(
            require_same_cloud, store, self._settings, credentials.team_id
        )
        await self._lanes.db(store.jobs.expire_all, now_ms, longest_ms)
        await self._lanes.db(store.jobs.start_over, now_ms)
        await self._lanes.db(store.holds.probe_now, now_ms)
        # A session, a higher limit, other multipart paths: whatever changed, it is asked again.
        await self._lanes.db(store.jobs.free_class, "large", now_ms)
        async with self._doors.api(self._settings) as http:
            with self._doors.objects(self._settings) as bare:
                api = await self._api(store, http, credentials)
                credentials.renew = api.refresh
                credentials.prove = partial(self._prove, store, http)
                hosts = host_policy(self._settings)
                objects = storage.ObjectStore(bare, hosts, on_request=self._on_request)
                parts = await self._build(store, api, objects, credentials, once=once)
                try:
                    async with self._doors.control(self._settings, parts.desk):
                        return await way(parts)
                finally:
                    await credentials.settled()

    async def _build(
        self,
        store: Store,
        api: cloud_api.CloudApi,
        objects: storage.ObjectStore,
        credentials: Credentials,
        *,
        once: bool,
    ) -> _Parts:
        settings = self._settings
        roots, tree = await self._roots(store)

        def path_of(job: Job) -> str:
            return os.path.join(roots[job.root_id].path, job.rel_path)

        def rules_of(root: Root) -> Rules:
            return rules_for(self._settings, root.path, type_key=root.type_key, tree=repr(tree))

        allowance = Allowance(
            settings.limits.max_bytes_per_day, store=store, lanes=self._lanes, clock=self._clock
        )
        transfer = Transfer(
            store=store,
            lanes=self._lanes,
            slots=Slots(Width(settings.upload.parts, settings.upload.parts_max)),
            api=api,
            objects=objects,
            clock=self._clock,
            jitter=self._jitter,
            meter=self._meter,
            hosts=HostRule(
                settings.api.base_url,
                frozenset(settings.network.storage_hosts),
                pinned=not settings.api.loopback,
            ),
            allowance=allowance,
            bandwidth=self._sending,
            path_of=path_of,
        )
        comparer = Comparer(
            roots,
            files=store.seen,
            symlinks=settings.scan.symlinks,
            tree=tree,
            rules_of=rules_of,
        )

        def lacking(job: Job) -> str | None:
            assert job.target.bundle is not None, "asked of bundles only"
            return comparer.bundle_waits_for(roots[job.root_id], job.target.bundle)

        async def standing_now() -> str | None:
            team_id = credentials.team_id or settings.api.team_id
            try:
                return standing(await api.me(), team_id if credentials.is_session else None)
            except JobError:
                return None

        catalog = Catalog(api, self._clock)
        worker = Worker(
            store=store,
            lanes=self._lanes,
            api=api,
            transfer=transfer,
            catalog=catalog,
            credentials=credentials,
            clock=self._clock,
            jitter=self._jitter,
            meter=self._meter,
            reading=self._reading,
            limits=Limits(
                settings.api.single_put_limit,
                settings.upload.lease_ttl_s,
                once=once,
                hidden=settings.catalog.register_as == "disabled",
            ),
            path_of=path_of,
            expected_of=lambda job: expected_sha256(roots[job.root_id].path, job.rel_path),
            lacking=lacking,
            on_moved=self._look_again,
        )

        async def all_is_well() -> bool:
            if not self._walked:
                return False
            unsettled, unread = len(intake.unsettled()), len(intake.problems)
            return await self._exit_code(store, unsettled=unsettled, unread=unread) == 0

        announcer = Announcer(
            _receivers(settings),
            store=store,
            lanes=self._lanes,
            clock=self._clock,
            jitter=self._jitter,
            shown_of=lambda job: roots[job.root_id].shown(job.rel_path),
            all_is_well=all_is_well,
            **network(settings),
        )
        dispatcher = Dispatcher(
            worker,
            store=store,
            lanes=self._lanes,
            clock=self._clock,
            credentials=credentials,
            allowance=allowance,
            announcer=announcer,
            owner=f"{socket.gethostname()}:{os.getpid()}",
            hands=settings.upload.files,
            lease_ttl_s=settings.upload.lease_ttl_s,
            on_ended=self._wake_janitor.set,
            standing=standing_now,
        )
        worker.on_contact = dispatcher.contact
        intake = Intake(
            roots,
            comparer=comparer,
            store=store,
            lanes=self._lanes,
            clock=self._clock,
            meter=self._meter,
            windows=_windows(settings),
            read_lease=settings.settle.read_lease,
            once=once,
            on_queued=dispatcher.wake,
            on_freed=self._hint,
        )
        janitor = Janitor(store=store, lanes=self._lanes, api=api, clock=self._clock)
        retirement = Retirement(
            store=store,
            lanes=self._lanes,
            api=api,
            clock=self._clock,
            policy=Policy(
                settings.catalog.on_delete,
                settings.catalog.delete_grace_s,
                settings.catalog.delete_most,
            ),
        )
        desk = Desk(
            state_dir=os.fspath(settings.state_dir),
            started_at=self._clock.now_ms(),
            store=store,
            lanes=self._lanes,
            clock=self._clock,
            meter=self._meter,
            credentials=credentials,
            dispatcher=dispatcher,
            transfer=transfer,
            bandwidth=self._sending,
            hint=self._hint,
            unready=self._unready,
            watch_mode=self._watch_mode,
        )
        reconciler = Reconciler(
            store=store,
            lanes=self._lanes,
            api=api,
            catalog=catalog,
            clock=self._clock,
            hidden=settings.catalog.register_as == "disabled",
        )
        applier = Applier(
            store=store,
            lanes=self._lanes,
            api=api,
            clock=self._clock,
            catalog=catalog,
            comparer=comparer,
            retirement=retirement,
            roots=roots,
            hidden=settings.catalog.register_as == "disabled",
        )
        return _Parts(
            roots,
            store,
            credentials,
            allowance,
            announcer,
            intake,
            dispatcher,
            janitor,
            retirement,
            reconciler,
            worker,
            transfer,
            applier,
            desk,
        )

    def _unready(self) -> list[str]:
        """Why the work cannot be done yet, or not any more."""
        reasons = [] if self._ready else ["it is starting"]
        if self._stop.is_set():
            reasons.append("it is stopping")
        if self._lanes.patience is not None and self._lanes.patience.waiting:
            reasons.append("there is no room on the disk of the state directory")
        return reasons

    def _watch_mode(self) -> str:
        if self._watcher is None or not self._watcher.alive():
            return "walks"
        return "degraded" if self._watcher.degraded else "events"

    def _current(self) -> str | Session | None:
        """The credential as it lies there now; not a session of another team than before."""
        found = self._source.current()
        if isinstance(found, Session) and self._team_id not in (None, found.team_id):
            raise ConfigError(f"the session is for the team {found.team_id}, not {self._team_id}")
        return found

    async def _prove(self, store: Store, http: cloud_api.Client, key: str | None) -> None:
        """
        See that a device key is of the team whose catalog the records here are in.

        Args:
            key: None: a session is in force, whose team is known.

        Raises:
            JobError: It shows none of them, or could not be asked.
        """
        if key is not None and not await self._lanes.db(store.servers.trusts_key, key):
            records = await self._lanes.db(store.report.newest_records, PROOFS)
            api = await self._api(store, http, Credentials(lambda: key, clock=self._clock))
            if key == self._foreign_key or not await shows(api, records):
                self._foreign_key = key  # not asked again and again
                raise self._foreign()
        await self._lanes.db(store.servers.trust_key, key)

    def _foreign(self) -> JobError:
        return to_error(
            Kind.DEVICE_KEY_REFUSED,
            "the device key shows none of the newest records that were registered from "
            f"{printable(os.fspath(self._settings.state_dir))}: they are in the catalog of another "
            "team, or were deleted there",
            advice="Put a key of that team in its place, or give each team a state_dir of its own. "
            "If they were deleted, stop syncd and say so: syncd login --team ID",
        )

    async def _roots(self, store: Store) -> tuple[dict[int, Root], Tree]:
        """models_dir first, then what extra_model_paths adds; roots of before are forgotten."""
        models = await self._root(store, os.fspath(self._settings.models_dir))
        folders = await self._lanes.scan(extra_folders, self._settings)
        placed = [(await self._root_of(store, models, folder), folder) for folder in folders]
        roots = {root.id: root for root in (models, *(root for root, _ in placed))}
        await self._lanes.db(store.files.retire, list(roots), self._clock.now_ms())
        return roots, Tree(models.id, [(root.id, folder) for root, folder in placed])

    async def _root_of(self, store: Store, models: Root, folder: Folder) -> Root:
        if folder.top is not None:
            return models
        return await self._root(store, folder.path, folder.type_key)

    async def _root(self, store: Store, path: str, type_key: str | None = None) -> Root:
        real = await self._lanes.scan(os.path.realpath, path)
        root_id = await self._lanes.db(store.files.root_id, path, real_path=real, type_key=type_key)
        network = await self._lanes.scan(scan.network_filesystem, path)
        return Root(root_id, path, network is not None, type_key)

    async def _api(
        self,
        store: Store,
        http: cloud_api.Client,
        credentials: Credentials,
    ) -> cloud_api.CloudApi:
        base_url = self._settings.api.base_url
        notes: set[asyncio.Task[None]] = set()

        def on_answered(call: Call) -> None:
            note = asyncio.ensure_future(
                self._lanes.db(store.servers.note_answered, base_url, call, self._clock.now_ms())
            )
            notes.add(note)
            note.add_done_callback(notes.discard)

        return connect(
            self._settings,
            http,
            credentials,
            clock=self._clock,
            jitter=self._jitter,
            answered=await self._lanes.db(store.servers.answered, base_url),
            on_answered=on_answered,
            on_request=self._on_request,
            on_repeat=lambda call: self._meter.count(Tally.RETRY, "request"),
        )

    def _on_request(self, call: Call, status: int | None) -> None:
        self._meter.count(Tally.REQUEST, call, "none" if status is None else str(status))

    # -- ends ------------------------------------------------------------------------------------

    async def _last_words(self, parts: _Parts, *, well: bool) -> None:
        within_s = LAST_WORDS_S if self._stop.is_set() else LAST_WORDS_ONCE_S
        await parts.announcer.last_words(well=well, within_s=within_s)

    async def _exit_code(self, store: Store, *, unsettled: int, unread: int) -> int:
        files = await self._lanes.db(store.report.counts)
        holds = await self._lanes.db(store.holds.all)
        return exit_code(
            files,
            holds=[hold.kind for hold in holds],
            unsettled=unsettled,
            unread=unread,
            root_missing=self.ending.root_error is not None,
        )

    def _signal_code(self) -> int:
        return 128 + self._signal if self._signal else 0

    @contextmanager
    def _signals(self, *, once: bool) -> Iterator[None]:
        """SIGTERM and SIGINT stop, a second one skips the grace; SIGHUP reloads a daemon."""
        loop = asyncio.get_running_loop()

        def handle(number: int) -> None:
            self._signal = number
            self._log.info("service.stopping", signal=signal.Signals(number).name)
            self.stop()

        handlers: dict[int, Callable[[], None]] = {
            number: partial(handle, number) for number in (signal.SIGTERM, signal.SIGINT)
        }
        if self._reread is not None and not once:
            handlers[signal.SIGHUP] = self._reload.set
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)


def _open_store(state_dir: str) -> Store:
    kind = scan.network_filesystem(state_dir)
    if kind is not None:  # neither SQLite's log nor the lock can be relied on there
        raise StateError(
            f"The state directory {printable(state_dir)} is on a network file system ({kind}), "
            "where databases break. Set state_dir (SYNCD_STATE_DIR) to a directory on a local disk."
        )
    return Store(state_dir)


def require_same_cloud(
    store: Store, settings: Settings, session_team: str | None = None
) -> str | None:
    """
    Claim the state directory for the configured cloud and team, once and for all.

    Args:
        session_team: The team of a stored session, which counts before ``api.team_id``.

    Returns:
        The team that it is claimed for; None as long as none was named.

    Raises:
        ConfigError: It remembers the catalog of another one.
    """
    wanted = session_team or settings.api.team_id
    claimed = store.servers.claim_state(settings.api.base_url, wanted)
    require_claimed(settings, claimed, wanted)
    return claimed[1]


def _windows(settings: Settings) -> settle.Windows:
    return settle.Windows(
        quiet_s=settings.settle.quiet_s,
        closed_s=settings.settle.quiet_closed_s,
        network_s=settings.settle.quiet_network_s,
    )


def _manner(settings: Settings) -> Manner:
    comfyui = settings.comfyui
    slow_rate = bandwidth.parse_rate(comfyui.busy_bandwidth)
    assert slow_rate is not None, "checked with the settings"
    return Manner(comfyui.url, comfyui.when_busy, slow_rate)


def _receivers(settings: Settings) -> Receivers:
    secret = settings.notify.webhook_secret
    return Receivers(
        webhook=_receiver(settings, "notify.webhook_url"),
        heartbeat=_receiver(settings, "notify.heartbeat_url"),
        key=None if secret is None else signing_key(secret.get_secret_value()),
        machine=socket.gethostname(),
    )


def _receiver(settings: Settings, key: str) -> Receiver | None:
    url: Any = value_at(settings, key)
    return None if url is None else Receiver(key, url.get_secret_value(), shown(url))
