"""Time from closing a file to its committed job: one file at a time, and a burst of files."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import Profile, events, profile_lines, running, spied, wait_for
from bench.place import syncd, write_model
from bench.scenario import Goal, Options, Result, Scenario, percentile, report_progress, table

ONE_BY_ONE = 300
PAUSE_S = 0.02
SIZE = 4096
FOLDERS = 20
LOOK_S = 0.05
PATIENCE_S = 300.0


def _run(options: Options) -> Result:
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name:
        folder, output = Path(name), Path(name) / "output"
        models = folder / "models"
        for number in range(FOLDERS):
            (models / "loras" / f"{number:02}").mkdir(parents=True)
        state = folder / "state"
        with running(syncd(models, state), output) as process:
            wait_for(output, "scan.finished", process)
            closed = {}
            for number in range(ONE_BY_ONE):
                path = f"loras/00/one-{number:05}.safetensors"
                write_model(models / path, SIZE)
                closed[path] = time.time()
                time.sleep(PAUSE_S)
            _wait(state, len(closed))
            report_progress(f"{options.burst} files in a burst ...")
            began_s = time.time()
            _burst(models, "burst", options.burst)
            ended_s = time.time()
            jobs = _wait(state, ONE_BY_ONE + options.burst)
            all_queued_s = time.time()
            profile: Profile = []
            if options.profile:
                with spied("a burst", process.pid) as profile:
                    _burst(models, "spied", options.burst)
                    _wait(state, ONE_BY_ONE + 2 * options.burst)
            queued = {str(event["path"]): _at_s(event) for event in events(output, "file.queued")}
    latency_s = [queued[path] - closed_s for path, closed_s in closed.items() if path in queued]
    return {
        "latency_ms": [1000 * seconds for seconds in latency_s],
        "burst": options.burst,
        "writing_s": ended_s - began_s,
        "queued": jobs - ONE_BY_ONE,
        "after_s": all_queued_s - ended_s,
        "profile": profile,
    }


def _burst(models: Path, name: str, files: int) -> None:
    for number in range(files):
        write_model(models / f"loras/{number % FOLDERS:02}/{name}-{number:05}.safetensors", SIZE)


def _at_s(event: dict[str, object]) -> float:
    """Return when the event was logged, which is right after the commit."""
    return datetime.fromisoformat(str(event["timestamp"])).timestamp()


def _wait(state: Path, count: int) -> int:
    """Wait until there are *count* jobs, or for ``PATIENCE_S``; return the number of jobs."""
    until_s, jobs = time.monotonic() + PATIENCE_S, 0
    # Count rows instead of log lines, which may be dropped.
    with closing(sqlite3.connect(f"file:{state / 'syncd.db'}?mode=ro", uri=True)) as db:
        while jobs < count and time.monotonic() < until_s:
            time.sleep(LOOK_S)
            (jobs,) = db.execute("SELECT count(*) FROM job").fetchone()
    return jobs


def _goals(result: Result) -> Iterator[Goal]:
    for share, bound in ((0.5, 3), (0.99, 15)):
        value = percentile(result["latency_ms"], share)
        yield Goal(f"file closed to job committed, p{100 * share:.0f}", value, bound, "ms")
    burst = result["burst"]
    yield Goal(
        f"burst of {burst:,} files: all queued after the last close", result["after_s"], 1, "s"
    )
    yield Goal(
        f"burst of {burst:,} files: share queued", result["queued"] / burst, 1, at_least=True
    )


def _lines(result: Result) -> Iterator[str]:
    latency = result["latency_ms"]
    yield "The settle window is zero, so this is the time from the kernel event to the commit."
    yield ""
    yield from table(
        ("Measure", "Value"),
        [
            (f"{len(latency)} single files, p50", f"{percentile(latency, 0.5):.2f} ms"),
            ("p99", f"{percentile(latency, 0.99):.2f} ms"),
            ("maximum", f"{max(latency):.2f} ms"),
            (f"burst of {result['burst']:,}: time to write it", f"{result['writing_s']:.2f} s"),
            ("queued", f"{result['queued']:,}"),
            ("last job after the last close", f"{result['after_s']:.2f} s"),
        ],
    )
    yield ""
    yield from profile_lines(result["profile"])


SCENARIO = Scenario("latency", "Event latency", _run, _lines, _goals)
