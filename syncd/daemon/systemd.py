"""
Reports status and watchdog pings to the service manager, as sd_notify(3) datagrams.

Without ``NOTIFY_SOCKET`` nothing is sent. A datagram that cannot be delivered is dropped.

A ping is sent while the event loop, the store and the watcher answer. If one of them hangs, the pings
stop and the manager's watchdog restarts the service.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass

import structlog

from syncd.clock import Clock
from syncd.executors import Executors
from syncd.formatting import size_text
from syncd.monitoring.log import scrub
from syncd.monitoring.progress import Meter
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.types import printable
from syncd.upload.limits import Bandwidth

STATUS_S = 5.0
PINGS_A_PERIOD = 3
SEND_S = 1.0  # timeout of a send, if the manager does not read
STATUS_MAX = 500


_log = structlog.get_logger(__name__)


class SystemdNotifier:
    """
    The connection to the service manager.

    Args:
        address: A socket's path, or ``@`` and the name of an abstract one; None: no service manager.
        watchdog_s: Seconds without a ``ping`` after which the manager kills the service; None: it
            does not.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s if address is not None else None
        self._status = ""

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> "SystemdNotifier":
        """Take the manager's address out of *environ*, so that no child process uses it."""
        address = environ.pop("NOTIFY_SOCKET", None)
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        meant = pid in ("", str(os.getpid())) and usec.isdecimal() and int(usec) > 0
        return cls(address or None, int(usec) / 1e6 if meant else None)

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager."""
        return self._address is not None

    def ready(self) -> None:
        """Report that the start, or a reload, is complete."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report the start of a reload; ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the service stops."""
        self._send("STOPPING=1")

    def ping(self) -> None:
        """Reset the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Set the status line; an unchanged one is not sent again."""
        text = printable(text)[:STATUS_MAX]
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
            sock.settimeout(SEND_S)
            sock.sendto(message.encode("utf-8", "backslashreplace"), name)


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
