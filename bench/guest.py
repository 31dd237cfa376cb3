"""
``python -m bench.guest``: measure how precisely syncd follows its bandwidth limit, and how fast.

It runs the real command against the stand-in cloud and counts the bytes in the files of the object
store.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

MIB = 1024 * 1024
SYNCD = (sys.executable, "-c", "from syncd.cli.fast_path import entry; entry()")
SIZE = 2200 * MIB
MINUTE_S = 60.0
NEAR, NEAR_MIB = 0.15, 0.2
"""Tolerance for a second to count as being at the new rate: a share, or MiB/s."""


class Queue:
    """A stand-in for ComfyUI with a queue of any length."""

    def __init__(self) -> None:
        self.length = 0
        queue = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"exec_info": {"queue_remaining": queue.length}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Do not log requests."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"

    def set_length(self, length: int) -> None:
        self.length = length


class Daemon:
    """A daemon, its configuration, and the bytes that arrived at the object store."""

    def __init__(self, folder: Path, comfyui: Queue, environment: dict[str, str]) -> None:
        self._folder = folder
        self._comfyui = comfyui
        self._config = folder / "config.toml"
        self._environment = environment
        self.daemon: subprocess.Popen[bytes] | None = None

    def syncd(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start the real command with this configuration."""
        command = [*SYNCD, "--config", os.fspath(self._config), *arguments]
        return subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL)

    def limit(self, rate: str) -> None:
        """Run ``syncd limit``."""
        with self.syncd("limit", rate) as command:
            pass
        assert command.returncode == 0

    def configure(self, rate: str) -> None:
        """Write the configuration, and reload a running daemon."""
        self._config.write_text(
            f"models_dir = '{self._folder}/models'\nstate_dir = '{self._folder}/state'\n"
            f"[comfyui]\nurl = '{self._comfyui.url}'\nwhen_busy = 'pause'\n"
            f"[settle]\nquiet_s = 1\nquiet_closed_s = 1\n[upload]\nbandwidth = '{rate}'\n"
        )
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGHUP)

    def stored(self) -> int:
        """Return the number of bytes in the object store."""
        files = [
            Path(top, name) for top, _, names in os.walk(self._folder / "store") for name in names
        ]
        return sum(file.stat().st_size for file in files if file.exists())

    def rate_over(self, seconds: float) -> float:
        """Measure the rate for *seconds*, in MiB/s."""
        before, began_s = self.stored(), time.monotonic()
        time.sleep(seconds)
        return (self.stored() - before) / MIB / (time.monotonic() - began_s)

    def seconds_until(
        self, rate: float, change: Callable[[], None], *, within_s: float = 10.0
    ) -> str:
        """Measure the time from *change* to the end of the first second near *rate* MiB/s."""
        began_s = time.monotonic()
        marks = [(began_s, self.stored())]
        change()
        command_s = time.monotonic() - began_s
        while marks[-1][0] - began_s < within_s:
            time.sleep(0.1)
            marks.append((time.monotonic(), self.stored()))
            at_s, stored = next(mark for mark in marks if marks[-1][0] - mark[0] <= 1.05)
            seconds = marks[-1][0] - at_s
            if seconds > 0.9:  # shorter if counting took long
                off = abs((marks[-1][1] - stored) / MIB / seconds - rate)
                if off < max(NEAR * rate, NEAR_MIB):
                    return f"{marks[-1][0] - began_s:.1f} s, of which {command_s:.1f} s for the command"
        return f"more than {within_s:.0f} s"


@contextmanager
def running(folder: Path, comfyui: Queue) -> Iterator[Daemon]:
    """Start the stand-in cloud and the daemon, and wait for the first bytes."""
    make_file(folder / "models/checkpoints/large.safetensors", SIZE)
    command = [*SYNCD, "sandbox", "--json", "--dir", f"{folder}/store"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cloud:
        assert cloud.stdout is not None
        cloud_info = json.loads(cloud.stdout.readline())
        environment = {
            "PATH": os.environ["PATH"],
            "SYNCD_API__BASE_URL": cloud_info["base_url"],
            "SYNCD_API__TOKEN": cloud_info["session_token"],
            "SYNCD_API__TEAM_ID": cloud_info["team_id"],
        }
        run = Daemon(folder, comfyui, environment)
        run.configure("20M")
        with run.syncd("--log-level", "error") as run.daemon:
            try:
                wait_for(lambda: run.stored() > 20 * MIB)
                yield run
            finally:
                run.daemon.terminate()
                cloud.terminate()


def make_file(path: Path, size: int) -> None:
    """Write a complete safetensors file."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.parent.mkdir(parents=True)
    noise = os.urandom(MIB)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(size // MIB):
            file.write(noise)


def wait_for(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not look():
        assert time.monotonic() < deadline, "no data arrived"
        time.sleep(0.05)


def measure() -> Iterator[tuple[str, str]]:
    """Yield the rows of the table."""
    comfyui = Queue()
    with TemporaryDirectory() as folder, running(Path(folder), comfyui) as run:
        for what, change in (("`syncd limit`", run.limit), ("a reload", run.configure)):
            for wanted in (10, 4, 16):
                took = run.seconds_until(wanted, partial(change, f"{wanted}M"))
                yield f"{what} to {wanted} MiB/s", took
                if wanted == 10:
                    rate = run.rate_over(MINUTE_S)
                    yield f"10 MiB/s by {what}, over {MINUTE_S:.0f} s", f"{rate:.3f} MiB/s"
        # The rate during a pause is too low to measure within a second.
        yield (
            "pause once ComfyUI's queue is not empty",
            run.seconds_until(0, partial(comfyui.set_length, 1)),
        )
        yield (
            "16 MiB/s again once it is empty",
            run.seconds_until(16, partial(comfyui.set_length, 0)),
        )


if __name__ == "__main__":
    for what, value in measure():
        print(f"| {what} | {value} |", flush=True)
