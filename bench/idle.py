"""A daemon that has nothing to do: processor, wake-ups and memory over some minutes."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import Selected, running, taken, wait_for
from bench.place import syncd, write_model
from bench.scenario import MIB, Goal, Options, Result, Scenario, table, tell
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches

EVERY_S = 1.0
CALM_S = 5.0
"""After its start, before anything is counted."""


def _run(options: Options) -> Result:
    switches = Switches(access_token_lifetime_s=86_400)
    with (
        TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name,
        Sandbox(switches=switches) as cloud,
    ):
        folder, said = Path(name), Path(name) / "said"
        models = folder / "models"
        for number in range(options.folders):
            (models / "loras" / f"{number // 100:03}" / f"{number:05}").mkdir(parents=True)
        write_model(models / "vae" / "one.safetensors", MIB)
        with running(syncd(models, folder / "state", cloud=cloud), said) as process:
            wait_for(said, "scan.finished", process)
            wait_for(said, "job.ended", process)
            time.sleep(CALM_S)
            tell(f"idle for {options.idle_s:.0f} s ...")
            looks = _looks(process.pid, options.idle_s)
    (began_s, before), (ended_s, after) = looks[0], looks[-1]
    seconds = ended_s - began_s
    return {
        "folders": options.folders,
        "seconds": seconds,
        "cpu_share": (after.cpu_s - before.cpu_s) / seconds,
        "wakeups_a_s": (after.wakeups - before.wakeups) / seconds,
        "resident": max(look.resident for _, look in looks),
        "grown": after.resident - before.resident,
    }


def _looks(pid: int, seconds: float) -> list[tuple[float, Selected]]:
    until_s = time.monotonic() + seconds
    looks = [(time.monotonic(), taken(pid))]
    while time.monotonic() < until_s:
        time.sleep(EVERY_S)
        looks.append((time.monotonic(), taken(pid)))
    return looks


def _goals(result: Result) -> Iterator[Goal]:
    idle = f"idle, {result['folders']:,} directories"
    yield Goal(f"{idle}: share of a core", 100 * result["cpu_share"], 0.1, "%")
    yield Goal(f"{idle}: wake-ups", result["wakeups_a_s"], 3, "a second")
    yield Goal(f"{idle}: RSS", result["resident"] / MIB, 60, "MiB")


def _lines(result: Result) -> Iterator[str]:
    yield f"{result['seconds']:.0f} s, all threads; wake-ups are voluntary context switches."
    yield ""
    yield from table(
        ("What", "measured"),
        [
            ("processor", f"{100 * result['cpu_share']:.3f} % of a core"),
            ("wake-ups", f"{result['wakeups_a_s']:.2f} a second"),
            ("RSS", f"{result['resident'] / MIB:.0f} MiB"),
            ("RSS grown meanwhile", f"{result['grown'] / MIB:.1f} MiB"),
        ],
    )
    yield ""


SCENARIO = Scenario("idle", "A daemon that has nothing to do", _run, _lines, _goals)
