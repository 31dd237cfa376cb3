"""``syncd health``, asked as the health check of a container asks it."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from syncd.store.store import Store
from tests.integration.harness import Home

CALL = "from syncd.cli.fast_path import entry; entry()"


@contextmanager
def answering(home: Home, *answers: bytes) -> Iterator[None]:
    """A process that holds the lock and sends *answers* on the socket."""
    store = Store(os.fspath(home.state))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(home.state / "syncd.sock"))
        listener.listen()
        server = threading.Thread(target=_serve, args=(listener, answers))
        server.start()
        try:
            yield
        finally:
            server.join()
            store.close()


def _serve(listener: socket.socket, answers: tuple[bytes, ...]) -> None:
    for answer in answers:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
            connection.sendall(answer)


def test_health_running_exits_0_and_stopped_exits_1(home: Home) -> None:
    before = home.run("health")
    with home.daemon() as daemon:
        daemon.started()
        running = home.run("health")
        daemon.stop()
    after = home.run("health")

    assert (before.code, running.code, after.code) == (1, 0, 1)
    assert running.out == f"healthy: syncd is running on {home.state}, files in progress: 0\n"
    assert f"unhealthy: syncd is not running on {home.state}" in after.out


def test_health_blocked_event_loop_exits_1(home: Home) -> None:
    with home.daemon() as daemon:
        daemon.started()
        daemon.process.send_signal(signal.SIGSTOP)
        code = "import syncd.cli.daemon_client as d; d.ANSWER_S = 0.5; "
        done = subprocess.run(
            (sys.executable, "-c", code + CALL, "health"),
            env=home.environment(), capture_output=True, text=True,
        )  # fmt: skip
        daemon.process.send_signal(signal.SIGCONT)
        daemon.stop()

    assert done.returncode == 1
    assert done.stdout.startswith("unhealthy: syncd is running on")
    assert "does not answer: timed out" in done.stdout


@pytest.mark.parametrize(("running", "idle_s", "code"), [(1, 901, 1), (1, 899, 0), (0, 10**6, 0)])
def test_I30_files_without_progress_make_syncd_unhealthy(
    home: Home, running: int, idle_s: float, code: int
) -> None:
    answer = f'{{"live": true, "running": {running}, "idle_s": {idle_s}}}'
    with answering(home, answer.encode()):
        done = home.run("health")

    assert done.code == code
    assert ("no progress since 20" in done.out) == bool(code)


def test_health_without_socket_relies_on_lock(home: Home) -> None:
    store = Store(os.fspath(home.state))
    done = home.run("health")
    store.close()

    assert done.code == 0
    assert "without a socket" in done.out


def test_health_finds_state_dir_by_file_flag_and_default(home: Home) -> None:
    config = home.state.parent / "syncd.toml"
    config.write_text(f'state_dir = "{home.state}"\n')
    store = Store(os.fspath(home.state))
    del home.env["SYNCD_STATE_DIR"]
    by_file = home.run("--config", str(config), "health").code
    by_flag = home.run("--state-dir", str(home.state), "health").code
    by_default = home.run("health").code
    config.write_text("no TOML")
    by_broken = home.run("--config", str(config), "health")
    store.close()

    assert (by_file, by_flag, by_default, by_broken.code) == (0, 0, 1, 1)
    assert "is not valid" in by_broken.out
