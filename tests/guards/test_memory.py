"""How much memory a daemon takes for a large backfill: the high-water mark of its process."""

import os
import re
from pathlib import Path

from syncd.sandbox.server import Sandbox
from syncd.store.db import reading
from syncd.store.reports import Report
from tests import memory
from tests.integration.harness import Home, until
from tests.weights import weights

FILES = 50_000
MIB = 1024 * 1024


def high_water_mark(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def queued(state_dir: Path) -> int:
    with reading(os.fspath(state_dir), Report) as report:
        return 0 if report is None else report.unfinished()


def test_I17_daemon_that_queues_50_000_files_stays_below_128_mib() -> None:
    with memory.folder() as folder, Sandbox(folder / "cloud") as cloud:
        home = Home.at(folder / "home", cloud)
        home.once()
        home.run("pause")
        for number in range(FILES):
            home.write(
                f"loras/{number // 500}/{number:06}.safetensors", weights(number.to_bytes(8))
            )
        with home.daemon() as daemon:
            until(lambda: queued(home.state) == FILES, "the whole queue", within_s=240)
            most = high_water_mark(daemon.process.pid)

    assert most < 128 * MIB
