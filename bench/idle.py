"""An idle daemon: CPU, wake-ups and memory over some minutes."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import Usage, running, usage, wait_for
from bench.place import syncd, write_model
from bench.scenario import MIB, Goal, Options, Result, Scenario, report_progress, table
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches

EVERY_S = 1.0
CALM_S = 5.0
"""Delay between the start and the measurement."""


def _run(options: Options) -> Result:
    switches = Switches(access_token_lifetime_s=86_400)
    with (
        TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name,
        Sandbox(switches=switches) as cloud,
    ):
        folder, output = Path(name), Path(name) / "output"
        models = folder / "models"
        for number in range(options.folders):
            (models / "loras" / f"{number // 100:03}" / f"{number:05}").mkdir(parents=True)
        write_model(models / "vae" / "one.safetensors", MIB)
        with running(syncd(models, folder / "state", cloud=cloud), output) as process:
            wait_for(output, "scan.finished", process)
            wait_for(output, "job.ended", process)
            time.sleep(CALM_S)
            report_progress(f"idle for {options.idle_s:.0f} s ...")
            samples = _samples(process.pid, options.idle_s)
    (began_s, before), (ended_s, after) = samples[0], samples[-1]
    seconds = ended_s - began_s
    return {
        "folders": options.folders,
        "seconds": seconds,
        "cpu_share": (after.cpu_s - before.cpu_s) / seconds,
        "wakeups_a_s": (after.wakeups - before.wakeups) / seconds,
        "resident": max(sample.resident for _, sample in samples),
        "grown": after.resident - before.resident,
    }


def _samples(pid: int, seconds: float) -> list[tuple[float, Usage]]:
    until_s = time.monotonic() + seconds
    samples = [(time.monotonic(), usage(pid))]
    while time.monotonic() < until_s:
        time.sleep(EVERY_S)
        samples.append((time.monotonic(), usage(pid)))
    return samples


def _goals(result: Result) -> Iterator[Goal]:
    idle = f"idle, {result['folders']:,} directories"
    yield Goal(f"{idle}: share of a core", 100 * result["cpu_share"], 0.1, "%")
    yield Goal(f"{idle}: wake-ups", result["wakeups_a_s"], 3, "per second")
    yield Goal(f"{idle}: RSS", result["resident"] / MIB, 60, "MiB")


def _lines(result: Result) -> Iterator[str]:
    yield f"{result['seconds']:.0f} s, all threads; wake-ups are voluntary context switches."
    yield ""
    yield from table(
        ("Measure", "Value"),
        [
            ("CPU", f"{100 * result['cpu_share']:.3f} % of a core"),
            ("wake-ups", f"{result['wakeups_a_s']:.2f} per second"),
            ("RSS", f"{result['resident'] / MIB:.0f} MiB"),
            ("RSS growth", f"{result['grown'] / MIB:.1f} MiB"),
        ],
    )
    yield ""


SCENARIO = Scenario("idle", "Idle daemon", _run, _lines, _goals)
