"""Feeds the ingester with hints, scans and due files, for the daemon and for a backfill."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

from syncd.clock import Clock, wait_until
from syncd.config.reload import JUDGING
from syncd.errors import RootUnavailable
from syncd.executors import Executors
from syncd.fs.watcher import Watcher
from syncd.ingest.comparer import Root
from syncd.ingest.ingester import Ingester
from syncd.store.store import Store
from syncd.types import Hint, HintKind

ROOT_CHECK_S = 5.0  # between checks of the roots and of the place of the store
MIN_SLEEP_S = 1.0  # a shorter sleep of the machine may be the difference between two clocks

_log = structlog.get_logger(__name__)


class ChangeQueue:
    """Collects hints, each once, in order of arrival."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._hints: dict[Hint, None] = {}  # an ordered set
        self._wake = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._hints)

    def add(self, hint: Hint) -> bool:
        """Add a hint, from any thread; if it returns True, ``wake`` must follow."""
        with self._lock:
            first = not self._hints
            self._hints[hint] = None
        return first

    def take(self) -> Collection[Hint]:
        with self._lock:
            hints, self._hints = self._hints, {}
        return hints.keys()

    def wake(self) -> None:
        """End the current wait, or the next one; call it in the event loop's thread."""
        self._wake.set()

    async def wait(self, seconds: float | None) -> None:
        """Wait until woken, or until *seconds* have passed."""
        await wait_until(self._clock, self._wake, seconds)
        self._wake.clear()


class IngestLoop:
    """
    Decides when paths are examined.

    Args:
        on_root_missing: Called with the error and the seconds until the next check.
        on_roots_present: Called after the roots were examined without an error.
        on_processed: Called when a backfill has examined files, which may have been queued.
    """

    def __init__(
        self,
        ingester: Ingester,
        changes: ChangeQueue,
        roots: Mapping[int, Root],
        *,
        store: Store,
        lanes: Executors,
        clock: Clock,
        on_root_missing: Callable[[RootUnavailable, float], Awaitable[None]],
        on_roots_present: Callable[[], Awaitable[None]],
        on_processed: Callable[[], None],
    ) -> None:
        self._ingester = ingester
        self._changes = changes
        self._roots = roots
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._on_root_missing = on_root_missing
        self._on_roots_present = on_roots_present
        self._on_processed = on_processed
        self._slept_s = clock.suspended_s()
        self._scan_due = self._check_roots_due = self._restart_due = self._clear_due = False
        self._busy = False
        self._scanned = False

    # -- requests, from the thread of the event loop -----------------------------------------------

    def rescan(self) -> None:
        self._scan_due = True
        self._changes.wake()

    def check_roots(self) -> None:
        """Check for missing roots and a missing store, which no event reports."""
        self._check_roots_due = True
        self._changes.wake()

    def restart_watcher(self) -> None:
        self._restart_due = True
        self._changes.wake()

    def on_settings_changed(self, keys: Collection[str]) -> None:
        """Scan again if the rules changed; settle again if the settle windows changed."""
        self._scan_due |= not JUDGING.isdisjoint(keys)
        self._clear_due |= any(key.startswith("settle.") for key in keys)
        self._changes.wake()

    # -- state -------------------------------------------------------------------------------------

    @property
    def scanned(self) -> bool:
        """Whether the first scan is complete."""
        return self._scanned

    def more_comes(self, until_s: float) -> bool:
        """Whether a backfill that waits until *until_s* may still queue a file."""
        if self._busy or self._changes:
            return True
        return self._clock.boottime_s() < until_s and bool(self._ingester.tracker.unsettled())

    # -- the daemon --------------------------------------------------------------------------------

    async def run(self, watcher: Watcher) -> None:
        """Scan all roots, then examine what changes, until cancelled."""
        whole_roots = [Hint(id_, "", HintKind.RESCAN, folder=True) for id_ in self._roots]
        self._scan_due = True
        while True:
            if self._restart_due or await self._lanes.scan(watcher.moved):
                await self._restart(watcher)
            hints = self._changes.take()
            if self._has_slept() or self._clear_due:
                self._scan_due, self._clear_due = True, False
                self._ingester.tracker.clear()
            if self._scan_due:
                self._scan_due, hints = False, whole_roots
            try:
                await self._process(hints)
            except RootUnavailable as error:
                await self._on_root_missing(error, ROOT_CHECK_S)
                self._scan_due = True
                await self._changes.wait(ROOT_CHECK_S)
                continue
            due_s = self._ingester.tracker.next_due_s()
            wait_s = None if due_s is None else max(0.0, due_s - self._clock.boottime_s())
            await self._changes.wait(wait_s)

    async def start_watching(self, watcher: Watcher) -> None:
        await self._lanes.scan(watcher.start)
        if watcher.degraded:
            _log.warning("watch.degraded", reason=watcher.degraded)

    async def _process(self, hints: Collection[Hint]) -> None:
        if self._check_roots_due:
            self._check_roots_due = False
            await self._lanes.db(self._store.require_in_place)
            await self._ingester.require_roots()
        await self._ingester.process(hints)
        self._scanned = True
        if hints:
            await self._on_roots_present()

    async def _restart(self, watcher: Watcher) -> None:
        """The observer ended, or a root is another folder than before."""
        _log.warning("watch.restarted")
        await self._lanes.scan(watcher.stop)
        await self.start_watching(watcher)
        self._restart_due, self._scan_due = False, True

    def _has_slept(self) -> bool:
        """Return whether the machine slept since the last call: events of that time are lost."""
        before_s, self._slept_s = self._slept_s, self._clock.suspended_s()
        slept_s = self._slept_s - before_s
        if slept_s < MIN_SLEEP_S:
            return False
        _log.info("service.resumed", asleep_s=round(slept_s))
        return True

    # -- a backfill --------------------------------------------------------------------------------

    async def scan(self) -> None:
        """Scan all roots once. Raises ``RootUnavailable``."""
        for root in self._roots.values():
            await self._ingester.scan(root)
        self._scanned = True

    async def settle(self, until_s: float) -> None:
        """Examine files that still change whenever they are due, until cancelled."""
        while True:
            hints = self._changes.take()
            self._busy = True  # a hint that was taken may still lead to a job
            await self._ingester.process(hints)
            self._busy = False
            self._on_processed()
            now_s = self._clock.boottime_s()
            waits = [until_s - now_s] if until_s > now_s else []
            due_s = self._ingester.tracker.next_due_s()
            if due_s is not None:  # it may be past: examining the others took time
                waits.append(max(0.0, due_s - now_s))
            await self._changes.wait(min(waits, default=None))
