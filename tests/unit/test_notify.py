"""What the service manager hears: datagrams over a real socket, and the line for people."""

import os
import socket
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from syncd.daemon.systemd import STATUS_MAX, SystemdNotifier, status_line
from syncd.store.outline import HoldRow
from syncd.types import HoldKind

MIB = 1024 * 1024
_names = count(1)


@pytest.fixture(params=["path", "abstract"])
def listening(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, socket.socket]]:
    """NOTIFY_SOCKET's value, and the socket behind it."""
    name = f"@syncd-notify-{os.getpid()}-{next(_names)}"
    if request.param == "path":
        name = os.path.relpath(tmp_path / "s")  # a socket's path may have 107 bytes
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        yield name, sock


def test_each_state_is_one_datagram(listening: tuple[str, socket.socket]) -> None:
    name, sock = listening
    notifier = SystemdNotifier.taken_from({"NOTIFY_SOCKET": name})
    before_us = time.monotonic_ns() // 1000
    notifier.ready()
    notifier.status("3 files queued\nand\x1b[31m more")
    notifier.ping()
    notifier.reloading()
    notifier.stopping()
    heard = [sock.recv(4096).decode() for _ in range(5)]

    reloading, _, stamp = heard.pop(3).partition("\nMONOTONIC_USEC=")
    assert heard == [
        "READY=1",
        r"STATUS=3 files queued\nand\x1b[31m more",
        "WATCHDOG=1",
        "STOPPING=1",
    ]
    assert reloading == "RELOADING=1"
    assert before_us <= int(stamp) <= time.monotonic_ns() // 1000


def test_repeated_status_line_is_sent_once(listening: tuple[str, socket.socket]) -> None:
    name, sock = listening
    notifier = SystemdNotifier(name)
    for text in ("one", "one", "two", "one", "x" * 4096):
        notifier.status(text)

    heard = [sock.recv(8192).decode() for _ in range(4)]
    assert heard == ["STATUS=one", "STATUS=two", "STATUS=one", "STATUS=" + "x" * STATUS_MAX]


def test_notify_variables_are_removed_from_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "90000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = SystemdNotifier.taken_from(environ)

    assert environ == {}
    assert notifier.is_heard
    assert notifier.watchdog_s == 90


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "90000000"},  # nobody to tell
        {"NOTIFY_SOCKET": "/s"},
        {"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "90000000", "WATCHDOG_PID": "1"},
    ],
)
def test_watchdog_is_off_unless_requested_for_this_process(environ: dict[str, str]) -> None:
    assert SystemdNotifier.taken_from(environ).watchdog_s is None


def test_manager_that_does_not_read_delays_the_daemon_briefly(
    listening: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.daemon.systemd.SEND_S", 0.05)
    name, _ = listening
    notifier, began_s = SystemdNotifier(name), time.monotonic()
    backlog = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 2
    for _ in range(min(backlog, 600)):
        notifier.ping()

    assert time.monotonic() - began_s < 10


def line(**values: Any) -> str:
    quiet: dict[str, Any] = {
        "scanned": None,
        "queued": 0,
        "settling": 0,
        "sending": 0.0,
        "hashing": 0.0,
        "limit": None,
        "holds": (),
    }
    return status_line(**(quiet | values))


HOLD = HoldRow(HoldKind.OFFLINE, 0, "no answer from the cloud", "Check the network.", 0, 1)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (line(), "nothing to send, watching"),
        (line(scanned=1200), "first scan, 1200 files so far"),
        (
            line(queued=3, sending=9.9 * MIB, limit=10 * MIB),
            "3 files queued, sending 9.9 MiB/s of at most 10.0 MiB/s",
        ),
        (line(settling=2), "waiting for 2 files to stop changing"),
        (
            line(queued=3, holds=(HOLD,)),
            "waiting: no answer from the cloud (Check the network.)",
        ),
    ],
)
def test_status_line_shows_hold_or_current_work(now: str, said: str) -> None:
    assert now == said
