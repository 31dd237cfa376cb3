"""``syncd`` under a service manager: what a real daemon tells a real datagram socket."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from syncd.sandbox.server import Sandbox
from tests.integration.harness import PROJECT, Daemon, Home, until

PING_S = 0.2
SILENCE_S = 5 * PING_S
_names = count(1)

# What hangs, hangs for longer than the test. Main thread: the loop's.
TRAPS = """
import gc, signal, time
from concurrent.futures import ThreadPoolExecutor
from watchdog.observers.inotify import InotifyObserver

def hang_the_loop(*_):
    time.sleep(60)

def hang_the_store(*_):
    for pool in gc.get_objects():
        if isinstance(pool, ThreadPoolExecutor) and pool._thread_name_prefix == "store":
            pool.submit(time.sleep, 60)

def end_the_observer(*_):
    for observer in gc.get_objects():
        if isinstance(observer, InotifyObserver):
            observer.stop()

signal.signal(signal.SIGUSR1, hang_the_loop)
signal.signal(signal.SIGUSR2, hang_the_store)
signal.signal(signal.SIGRTMIN, end_the_observer)
from syncd.cli.fast_path import entry
entry()
"""


class Manager:
    """A service manager's side of the socket."""

    def __init__(self) -> None:
        self.name = f"@syncd-manager-{os.getpid()}-{next(_names)}"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.name.replace("@", "\0", 1))
        self._sock.setblocking(False)
        self._heard: list[str] = []

    def close(self) -> None:
        self._sock.close()

    def heard(self) -> list[str]:
        """All messages so far."""
        try:
            while True:
                self._heard.append(self._sock.recv(4096).decode())
        except BlockingIOError:
            return self._heard

    def pings(self) -> int:
        return self.heard().count("WATCHDOG=1")

    def wait_for(self, message: str) -> str:
        """The first message that begins so."""
        found = until(
            lambda: [heard for heard in self.heard() if heard.startswith(message)], message
        )
        return found[0]

    def pings_go_on(self) -> None:
        """Wait for some."""
        before = self.pings()
        until(lambda: self.pings() >= before + 3, "pings")

    def is_silent(self) -> bool:
        """Does no ping come while some should?"""
        before = self.pings()
        time.sleep(SILENCE_S)
        return self.pings() == before


@pytest.fixture
def manager() -> Iterator[Manager]:
    listening = Manager()
    yield listening
    listening.close()


@contextmanager
def managed(home: Home, manager: Manager) -> Iterator[Daemon]:
    """``syncd``, started as a service manager does; ended with SIGKILL if nobody ended it."""
    log = home.state.parent / "daemon.log"
    environment = home.environment() | {
        "NOTIFY_SOCKET": manager.name,
        "WATCHDOG_USEC": str(int(3 * PING_S * 1e6)),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            (sys.executable, "-c", TRAPS),
            cwd=PROJECT,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield Daemon(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_start_and_a_stop_are_told(home: Home, cloud: Sandbox, manager: Manager) -> None:
    with managed(home, manager) as daemon:
        manager.wait_for("READY=1")
        manager.pings_go_on()
        manager.wait_for("STATUS=nothing to send, watching")
        code = daemon.stop()

    heard = manager.heard()
    assert code == 143
    assert heard[0] == "READY=1"
    assert heard.count("READY=1") == heard.count("STOPPING=1") == 1
    assert not any(message.startswith("STATUS=") for message in heard[heard.index("STOPPING=1") :])


@pytest.mark.parametrize("broken", [False, True], ids=["good", "broken"])
def test_a_reload_is_told_and_ends(
    home: Home, cloud: Sandbox, manager: Manager, broken: bool
) -> None:
    folder = home.state.parent / ".config" / "syncd"
    folder.mkdir(parents=True)
    with managed(home, manager) as daemon:
        manager.wait_for("READY=1")
        (folder / "config.toml").write_text("x" if broken else "log.level = 'info'\n")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: manager.heard().count("READY=1") == 2, "the end of the reload")

    states = [message for message in manager.heard() if "READY" in message or "RELOAD" in message]
    assert [state.partition("\n")[0] for state in states] == ["READY=1", "RELOADING=1", "READY=1"]
    assert states[1].partition("\n")[2].startswith("MONOTONIC_USEC=")
    assert bool(daemon.events("config.reload_refused")) == broken


def test_a_hold_is_told_with_what_to_do(home: Home, cloud: Sandbox, manager: Manager) -> None:
    home.env["SYNCD_API__TOKEN"] = "dk-nobody"
    with managed(home, manager):
        line = manager.wait_for("STATUS=waiting: ")

    assert "(" in line


@pytest.mark.parametrize("trap", [signal.SIGUSR1, signal.SIGUSR2], ids=["loop", "store"])
def test_pings_stop_when_something_hangs(
    home: Home, cloud: Sandbox, manager: Manager, trap: signal.Signals
) -> None:
    with managed(home, manager) as daemon:
        manager.pings_go_on()
        daemon.process.send_signal(trap)
        until(lambda: manager.is_silent() and manager.is_silent(), "silence")

        assert daemon.process.poll() is None


def test_a_watcher_that_ended_is_started_again_and_pings_go_on(
    home: Home, cloud: Sandbox, manager: Manager
) -> None:
    with managed(home, manager) as daemon:
        daemon.started()
        until(manager.pings, "a ping")
        daemon.process.send_signal(signal.SIGRTMIN)
        until(lambda: daemon.events("watch.restarted"), "another watch")
        manager.pings_go_on()

        assert daemon.events("watchdog.withheld")


def test_a_backfill_is_ready_too_and_nobody_else_hears_of_it(
    home: Home, cloud: Sandbox, manager: Manager
) -> None:
    home.env["NOTIFY_SOCKET"] = manager.name
    done = home.once()

    assert done.code == 0
    assert manager.heard()[0] == "READY=1"
