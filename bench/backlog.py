"""Upload a backlog of small files to a cloud that is 50 ms away, with and without a limit of its API."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import timed
from bench.place import syncd, write_model
from bench.scenario import (
    MIB,
    Goal,
    Options,
    Result,
    Scenario,
    median,
    report_progress,
    spread,
    table,
)
from syncd.core.jobs.error_mapping import STORE_CALLS
from syncd.sandbox.faults import Fault, Faults, Rule
from syncd.sandbox.history import Entry
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches

AWAY = Rule(Fault.DELAY, delay_s=0.05, count=None)
"""Delays each answer by one round trip."""

LIMIT = 40
"""API calls that the limited cloud accepts in any second."""

CALLS = 2
"""API calls for each small file: presign and register."""


class LimitedFaults(Faults):
    """Answers 429 to API calls beyond ``LIMIT`` in a second, and delays all others."""

    def __init__(self) -> None:
        super().__init__([AWAY])
        self._accepted: deque[float] = deque()

    def pick(self, entry: Entry) -> Rule | None:
        if entry.call not in STORE_CALLS:
            now_s = time.monotonic()
            while self._accepted and self._accepted[0] <= now_s - 1:
                self._accepted.popleft()
            if len(self._accepted) >= LIMIT:
                return Rule(Fault.ANSWER, status=429, headers={"Retry-After": "1"})
            self._accepted.append(now_s)
        return super().pick(entry)


def _run(options: Options) -> Result:
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name:
        folder = Path(name)
        for number in range(options.swarm_files):
            # Each file is one byte longer: equal files would not be sent.
            write_model(folder / "models" / "loras" / f"{number:04}.safetensors", MIB + number)
        runs: Result = {"without a limit": [], f"at most {LIMIT} calls a second": []}
        for number in range(options.rounds):
            for way, faults in zip(runs, (Faults([AWAY]), LimitedFaults()), strict=True):
                runs[way].append(_once(folder, f"{way} {number}", faults, options.swarm_files))
            report_progress(f"round {number + 1}/{options.rounds}")
    return {"files": options.swarm_files, "runs": runs}


def _once(folder: Path, name: str, faults: Faults, files: int) -> Result:
    switches = Switches(access_token_lifetime_s=86_400, listing_off=404)
    cloud = Sandbox(folder / f"cloud {name}", switches=switches)
    cloud.faults = faults
    with cloud:
        command = syncd(folder / "models", folder / name, "--once", cloud=cloud)
        measured = asdict(timed("syncd", command))
        registered = len(cloud.records())
    if registered != files:
        raise SystemExit(f"backlog: {registered} of {files} files were registered")
    return measured


def _rate(result: Result, way: str) -> float:
    return median(result["files"] / run["wall_s"] for run in result["runs"][way])


def _goals(result: Result) -> Iterator[Goal]:
    free, limited = (_rate(result, way) for way in result["runs"])
    name = f"{result['files']:,} files of 1 MiB, 50 ms away"
    yield Goal(name, free, 80, "files per second", at_least=True)
    share = limited * CALLS / LIMIT
    yield Goal(
        f"{name}, {LIMIT} calls per second: share of the possible", share, 0.85, at_least=True
    )


def _lines(result: Result) -> Iterator[str]:
    files = result["files"]
    yield (
        f"`syncd --once` with {files:,} files of 1 MiB and the stand-in cloud on this machine, which delays"
        " each answer by 50 ms. The cloud uses CPU time of the same processors."
    )
    yield ""
    yield from table(
        ("API", "Time s", "Files per second", "CPU ms per file"),
        (
            (
                way,
                spread(run["wall_s"] for run in runs),
                f"{_rate(result, way):.1f}",
                f"{1000 * median(run['cpu_s'] for run in runs) / files:.1f}",
            )
            for way, runs in result["runs"].items()
        ),
    )


SCENARIO = Scenario("backlog", "Small files over a long link", _run, _lines, _goals)
