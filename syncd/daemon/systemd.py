"""
Reports status and watchdog pings to the service manager.

A ping is sent while the event loop, the store and the watcher answer. If one of them hangs, the pings
stop and the manager's watchdog restarts the service.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from syncd.clock import Clock
from syncd.daemon.notify import SystemdNotifier
from syncd.executors import Executors
from syncd.formatting import size_text
from syncd.monitoring.log import scrub
from syncd.monitoring.progress import Meter, Snapshot
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.upload.limits import Bandwidth

STATUS_S = 5.0
PINGS_A_PERIOD = 3


_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Moment:
    """
    The facts of a status line.

    ``walked`` counts the files of the first walk until it is complete, ``queued`` the files to send,
    running ones included; rates are in bytes a second.
    """

    walked: int | None
    queued: int
    settling: int
    sending: float
    hashing: float
    limit: int | None
    holds: tuple[HoldRow, ...]


class SystemdReporter:
    """
    Sends status lines and pings until cancelled.

    Args:
        walked: Files examined by the first walk so far; None once it is complete.
        is_watched: Returns whether the watcher works, or is known not to.
    """

    def __init__(
        self,
        notifier: SystemdNotifier,
        *,
        store: Store,
        lanes: Executors,
        clock: Clock,
        meter: Meter,
        bandwidth: Bandwidth,
        walked: Callable[[], int | None],
        is_watched: Callable[[], bool],
    ) -> None:
        self._notifier = notifier
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._meter = meter
        self._bandwidth = bandwidth
        self._walked = walked
        self._is_watched = is_watched

    async def run(self) -> None:
        """
        Send status lines, and pings if they are asked for.

        Raises:
            StateError: The store cannot be read.
        """
        async with asyncio.TaskGroup() as both:
            both.create_task(self._report())
            if self._notifier.watchdog_s is not None:
                both.create_task(self._ping(self._notifier.watchdog_s / PINGS_A_PERIOD))

    async def _report(self) -> None:
        before, at_s = self._meter.snapshot(), self._clock.boottime_s()
        while True:
            queued = await self._lanes.db(self._store.report.unfinished)
            holds = await self._lanes.db(self._store.report.holds)
            now, now_s = self._meter.snapshot(), self._clock.boottime_s()
            moment = self._moment(before, now, now_s - at_s, queued, tuple(holds))
            self._notifier.status(scrub(status_line(moment)))
            before, at_s = now, now_s
            await self._clock.sleep(STATUS_S)

    def _moment(
        self,
        before: Snapshot,
        now: Snapshot,
        seconds: float,
        queued: int,
        holds: tuple[HoldRow, ...],
    ) -> Moment:
        seconds = max(seconds, 0.001)
        return Moment(
            walked=self._walked(),
            queued=queued,
            settling=now.settling_files,
            sending=(now.sent - before.sent) / seconds,
            hashing=(now.hashed - before.hashed) / seconds,
            limit=self._bandwidth.rate,
            holds=holds,
        )

    async def _ping(self, period_s: float) -> None:
        while True:
            await self._lanes.db(self._store.report.unfinished)
            if self._is_watched():
                self._notifier.ping()
            else:
                _log.warning("watchdog.withheld", reason="the watcher of the tree does not answer")
            await self._clock.sleep(period_s)


def status_line(moment: Moment) -> str:
    """One line for ``systemctl status``: the hold, else the current work."""
    if moment.holds:
        hold = moment.holds[0]
        return f"waiting: {hold.reason}" + (f" ({hold.advice})" if hold.advice else "")
    parts = []
    if moment.walked is not None:
        parts.append(f"first look at the models, {_files(moment.walked)} so far")
    if moment.queued:
        parts.append(f"{_files(moment.queued)} queued")
    if moment.sending:
        limit = "" if moment.limit is None else f" of at most {size_text(moment.limit)}/s"
        parts.append(f"sending {size_text(moment.sending)}/s{limit}")
    if moment.hashing:
        parts.append(f"hashing {size_text(moment.hashing)}/s")
    if moment.settling:
        parts.append(f"waiting for {_files(moment.settling)} to stop changing")
    return ", ".join(parts) or "nothing to send, watching"


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"
