"""
Sends sd_notify(3) datagrams to the service manager.

Without ``NOTIFY_SOCKET`` nothing is sent. A datagram that cannot be delivered is dropped.
"""

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

from syncd.types import printable

SEND_S = 1.0
"""Timeout of a send, if the manager does not read."""

STATUS_MAX = 500


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
