"""
``python -m bench.guest``: does syncd keep to its rate, and how soon does it follow a change?

The real command against the stand-in cloud, both processes of their own. What is counted are the
bytes in the store's own files, looked at from outside.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

MIB = 1024 * 1024
SYNCD = (sys.executable, "-c", "from syncd.cli import entry; entry()")
SIZE = 2200 * MIB
MINUTE_S = 60.0
NEAR, NEAR_MIB = 0.15, 0.2
"""How near to a new rate a second has to run to count as following it: a share, or MiB/s."""


class Queue:
    """A ComfyUI that says what it is told to say."""

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
                """The screen is for results."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"


class Run:
    """A daemon at work, its configuration, and the bytes that have arrived."""

    def __init__(self, folder: Path, comfyui: Queue) -> None:
        self._folder = folder
        self._comfyui = comfyui
        self._config = folder / "config.toml"
        self.daemon: subprocess.Popen[bytes] | None = None

    def configure(self, rate: str) -> None:
        """Write the configuration; a daemon that runs reloads it."""
        self._config.write_text(
            f"models_dir = '{self._folder}/models'\nstate_dir = '{self._folder}/state'\n"
            f"[comfyui]\nurl = '{self._comfyui.url}'\nwhen_busy = 'pause'\n"
            f"[settle]\nquiet_s = 1\nquiet_closed_s = 1\n[upload]\nbandwidth = '{rate}'\n"
        )
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGHUP)

    def stored(self) -> int:
        """Bytes in the store."""
        files = [
            Path(top, name) for top, _, names in os.walk(self._folder / "store") for name in names
        ]
        return sum(file.stat().st_size for file in files if file.exists())

    def rate_over(self, seconds: float) -> float:
        """MiB a second that arrive from now on."""
        before, began_s = self.stored(), time.monotonic()
        time.sleep(seconds)
        return (self.stored() - before) / MIB / (time.monotonic() - began_s)

    def seconds_until(self, rate: float, *, within_s: float = 10.0) -> float:
        """Seconds from now to the beginning of the first second that runs at *rate* MiB/s or near."""
        began_s = time.monotonic()
        marks = [(began_s, self.stored())]
        while marks[-1][0] - began_s < within_s:
            time.sleep(0.1)
            marks.append((time.monotonic(), self.stored()))
            at_s, stored = next(mark for mark in marks if marks[-1][0] - mark[0] <= 1.05)
            seconds = marks[-1][0] - at_s
            off = abs((marks[-1][1] - stored) / MIB / seconds - rate)
            if seconds > 0.9 and off < max(NEAR * rate, NEAR_MIB):
                return at_s - began_s
        return float("inf")


@contextmanager
def running(folder: Path, comfyui: Queue) -> Iterator[Run]:
    """Stand-in cloud and daemon, the first bytes on their way."""
    make_file(folder / "models/checkpoints/large.safetensors", SIZE)
    command = [*SYNCD, "sandbox", "--json", "--dir", f"{folder}/store"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cloud:
        assert cloud.stdout is not None
        told = json.loads(cloud.stdout.readline())
        run = Run(folder, comfyui)
        run.configure("10 MiB/s")
        environment = {
            "PATH": os.environ["PATH"],
            "SYNCD_API__BASE_URL": told["base_url"],
            "SYNCD_API__TOKEN": told["session_token"],
            "SYNCD_API__TEAM_ID": told["team_id"],
        }
        options = ["--config", f"{folder}/config.toml", "--log-level", "error"]
        with subprocess.Popen([*SYNCD, *options], env=environment) as run.daemon:
            try:
                wait_for(lambda: run.stored() > 20 * MIB)
                yield run
            finally:
                run.daemon.terminate()
                cloud.terminate()


def make_file(path: Path, size: int) -> None:
    """A whole safetensors file."""
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
        assert time.monotonic() < deadline, "nothing arrives"
        time.sleep(0.05)


def measure() -> Sequence[tuple[str, str]]:
    """The table's rows."""
    rows = []
    comfyui = Queue()
    with TemporaryDirectory() as folder, running(Path(folder), comfyui) as run:
        rate = run.rate_over(MINUTE_S)
        rows.append((f"10 MiB/s, over {MINUTE_S:.0f} s", f"{rate:.3f} MiB/s"))
        for wanted in (20, 4, 16):
            run.configure(f"{wanted} MiB/s")
            after_s = run.seconds_until(wanted)
            rows.append((f"reload to {wanted} MiB/s is in force after", f"{after_s:.1f} s"))
        comfyui.length = 1
        after_s = run.seconds_until(0)  # what trickles on is told by no second alone
        rows.append(("pause once ComfyUI's queue is not empty, after", f"{after_s:.1f} s"))
        comfyui.length = 0
        after_s = run.seconds_until(16)
        rows.append(("16 MiB/s again once it is empty, after", f"{after_s:.1f} s"))
    return rows


if __name__ == "__main__":
    for what, value in measure():
        sys.stdout.write(f"| {what} | {value} |\n")
