"""
Reports status and watchdog pings to the service manager.

A ping is sent while the event loop, the store and the watcher answer. If one of them hangs, the pings
stop and the manager's watchdog restarts the service.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from syncd.clock import Clock
from syncd.daemon.notify import SystemdNotifier
from syncd.executors import Executors
from syncd.formatting import size_text
from syncd.monitoring.log import scrub
from syncd.monitoring.progress import Meter
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.upload.limits import Bandwidth

STATUS_S = 5.0
PINGS_A_PERIOD = 3


_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class SystemdReporter:
    """
    Sends status lines and pings until cancelled.

    Args:
        scanned: Files examined by the first scan so far; None once it is complete.
        is_watched: Returns whether the watcher works, or is known not to.
    """

    notifier: SystemdNotifier
    store: Store
    lanes: Executors
    clock: Clock
    meter: Meter
    bandwidth: Bandwidth
    scanned: Callable[[], int | None]
    is_watched: Callable[[], bool]

    async def run(self) -> None:
        """
        Send status lines, and pings if they are asked for.

        Raises:
            StateError: The store cannot be read.
        """
        async with asyncio.TaskGroup() as both:
            both.create_task(self._report())
            if self.notifier.watchdog_s is not None:
                both.create_task(self._ping(self.notifier.watchdog_s / PINGS_A_PERIOD))

    async def _report(self) -> None:
        before, at_s = self.meter.snapshot(), self.clock.boottime_s()
        while True:
            queued = await self.lanes.db(self.store.report.unfinished)
            holds = await self.lanes.db(self.store.report.holds)
            now, now_s = self.meter.snapshot(), self.clock.boottime_s()
            seconds = max(now_s - at_s, 0.001)
            line = status_line(
                holds,
                scanned=self.scanned(),
                queued=queued,
                settling=now.settling_files,
                sending=(now.sent - before.sent) / seconds,
                hashing=(now.hashed - before.hashed) / seconds,
                limit=self.bandwidth.rate,
            )
            self.notifier.status(scrub(line))
            before, at_s = now, now_s
            await self.clock.sleep(STATUS_S)

    async def _ping(self, period_s: float) -> None:
        while True:
            await self.lanes.db(self.store.report.unfinished)
            if self.is_watched():
                self.notifier.ping()
            else:
                _log.warning("watchdog.withheld", reason="the watcher of the tree does not answer")
            await self.clock.sleep(period_s)


def status_line(
    holds: Sequence[HoldRow],
    *,
    scanned: int | None,
    queued: int,
    settling: int,
    sending: float,
    hashing: float,
    limit: int | None,
) -> str:
    """
    Return one line for ``systemctl status``: the hold, else the current work.

    Args:
        scanned: The files of the first scan so far; None once it is complete.
        queued: The files to send, running ones included.
        sending, hashing, limit: Bytes a second.
    """
    if holds:
        hold = holds[0]
        return f"waiting: {hold.reason}" + (f" ({hold.advice})" if hold.advice else "")
    parts = []
    if scanned is not None:
        parts.append(f"first scan, {_files(scanned)} so far")
    if queued:
        parts.append(f"{_files(queued)} queued")
    if sending:
        most = "" if limit is None else f" of at most {size_text(limit)}/s"
        parts.append(f"sending {size_text(sending)}/s{most}")
    if hashing:
        parts.append(f"hashing {size_text(hashing)}/s")
    if settling:
        parts.append(f"waiting for {_files(settling)} to stop changing")
    return ", ".join(parts) or "nothing to send, watching"


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"
