"""``syncd`` as a guest: while ComfyUI has work it makes room, and it asks for little itself."""

import ctypes
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from tests.integration.harness import MIB, Daemon, Home, records, until
from tests.weights import weights

ONE, TWO = "loras/one.safetensors", "vae/two.pt"
NEW = "loras/new.safetensors"

IOPRIO_GET = {"x86_64": 252, "aarch64": 31}
CLASS_IDLE = 3


class ComfyUi:
    """Its ``GET /prompt``, and how often that was called. ``queue`` None: it answers nonsense."""

    def __init__(self) -> None:
        self.queue: int | None = 0
        self.asked = 0
        comfyui = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                comfyui.asked += 1
                known = self.path == "/prompt" and comfyui.queue is not None
                told = {"exec_info": {"queue_remaining": comfyui.queue}} if known else [self.path]
                body = json.dumps(told).encode()
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def comfyui() -> Iterator[ComfyUi]:
    running = ComfyUi()
    yield running
    running.close()


def arrive(cloud: Sandbox, *rel_paths: str) -> None:
    wanted = {f"models/{rel_path}" for rel_path in rel_paths}
    until(lambda: wanted <= records(cloud).keys(), f"{wanted} in the catalog")


def has_come(cloud: Sandbox, rel_path: str) -> bool:
    return f"models/{rel_path}" in records(cloud)


def made_room(daemon: Daemon) -> dict[str, int]:
    return until(lambda: daemon.events("throttle.started"), "room for ComfyUI")[-1]


def test_bytes_are_held_back_while_comfyui_has_work(
    home: Home, cloud: Sandbox, comfyui: ComfyUi
) -> None:
    home.env |= {
        "SYNCD_UPLOAD__BANDWIDTH": "1 MiB/s",
        "SYNCD_COMFYUI__URL": comfyui.url,
        "SYNCD_COMFYUI__WHEN_BUSY": "slow",
        "SYNCD_COMFYUI__BUSY_BANDWIDTH": "96 KiB/s",
    }
    comfyui.queue = 2
    home.write(NEW, weights(os.urandom(4_000_000)))
    with home.daemon() as daemon:
        told = made_room(daemon)
        time.sleep(3)  # at its own rate it would be there by then
        assert not has_come(cloud, NEW)
        comfyui.queue = 0
        until(lambda: daemon.events("throttle.ended"), "the end of it")
        arrive(cloud, ONE, TWO, NEW)

    assert (told["sending"], told["hashing"]) == (96 * 1024, 96 * 1024)
    assert told["queued"] == 2
    assert cloud.history.count("put_body") == 3  # none was broken off


def test_a_comfyui_that_does_not_answer_is_not_busy_and_that_is_said_once(
    home: Home, cloud: Sandbox, comfyui: ComfyUi
) -> None:
    comfyui.queue = None
    home.env |= {
        "SYNCD_UPLOAD__BANDWIDTH": "512 KiB/s",
        "SYNCD_COMFYUI__URL": comfyui.url,
        "SYNCD_COMFYUI__WHEN_BUSY": "pause",
    }
    home.write(NEW, weights(os.urandom(3_000_000)))
    with home.daemon() as daemon:
        arrive(cloud, ONE, TWO, NEW)

    (said,) = daemon.events("comfyui.unreachable")
    assert comfyui.asked >= 2
    assert "HTTP 404" in said["reason"]
    assert daemon.events("throttle.started") == []


def test_hashing_keeps_to_its_own_rate(home: Home, cloud: Sandbox) -> None:
    home.env["SYNCD_GUEST__HASH_BANDWIDTH"] = "2 MiB/s"
    home.env["SYNCD_API__SINGLE_PUT_LIMIT"] = str(10 * MIB)
    home.write(NEW, weights(os.urandom(9 * MIB)))
    home.let_age()
    done = home.once()

    assert done.code == 0
    assert has_come(cloud, NEW)
    assert done.seconds > 3.5  # 9 MiB at 2 MiB/s, less what was saved up


def test_it_is_as_nice_as_it_is_told_to_be(home: Home, cloud: Sandbox) -> None:
    home.env |= {"SYNCD_GUEST__NICE": "3", "SYNCD_GUEST__IDLE_IO": "true"}
    with home.daemon() as daemon:
        daemon.started()
        tasks = [int(task.name) for task in Path(f"/proc/{daemon.process.pid}/task").iterdir()]
        niceness = {os.getpriority(os.PRIO_PROCESS, task) for task in tasks}
        classes = {io_class(task) for task in tasks}
        kept = daemon.events("process.io_class_refused")

    assert len(tasks) > 3
    assert niceness == {min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)}
    assert classes == {CLASS_IDLE} or kept


def io_class(task: int) -> int:
    """See ioprio_get(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(IOPRIO_GET[platform.machine()], 1, task)) >> 13
