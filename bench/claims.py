"""Claim and finish jobs in a queue with many rows."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import Profile, profile_lines, spied
from bench.scenario import MIB, Goal, Options, Result, Scenario, report_progress, table
from syncd.core.transfer.in_flight import fitting
from syncd.store.files import Wanted
from syncd.store.store import Store
from syncd.types import Fingerprint, FoundFile, Job, Target

BATCH = 20_000
LASTING_S = 5.0
NOW_MS = 1_800_000_000_000


def _run(options: Options) -> Result:
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name:
        store = Store(name)
        try:
            report_progress(f"creating {options.rows} rows ...")
            started_s = time.monotonic()
            _fill(store, options.rows)
            filling_s = time.monotonic() - started_s
            pairs, seconds = _work(store)
            profile: Profile = []
            if options.profile:
                with spied("claims", os.getpid()) as profile:
                    _work(store)
        finally:
            store.close()
        syncs = _syncs_a_s(Path(name, "syncs"))
        size = Path(name, "syncd.db").stat().st_size
    return {
        "rows": options.rows,
        "filling_s": filling_s,
        "pairs": pairs,
        "seconds": seconds,
        "bytes": size,
        "syncs_a_s": syncs,
        "profile": profile,
    }


def _syncs_a_s(path: Path) -> float:
    """Return how many synchronous page writes per second this disk does; a commit needs at least one."""
    page, syncs, started_s = bytes(4096), 0, time.monotonic()
    with path.open("wb", buffering=0) as file:
        while time.monotonic() - started_s < LASTING_S / 5:
            file.write(page)
            os.fdatasync(file.fileno())
            syncs += 1
    return syncs / (time.monotonic() - started_s)


def _fill(store: Store, rows: int) -> None:
    root = store.files.root_id("/models")
    for start in range(0, rows, BATCH):
        numbers = range(start, min(start + BATCH, rows))
        store.files.admit([_wanted(root, number) for number in numbers], NOW_MS)


def _wanted(root: int, number: int) -> Wanted:
    path = f"loras/{number // 1000:04}/{number:07}.safetensors"
    fingerprint = Fingerprint(1, number + 1, MIB + number % 977, number, number)
    name = os.path.basename(path)
    target = Target(f"models/{path}", "loras", name, name.removesuffix(".safetensors"))
    return Wanted(FoundFile(root, path, fingerprint, MIB), target, f"models/{path}")


def _work(store: Store) -> tuple[int, float]:
    """Claim as many small jobs at once as the dispatcher does; finish each in a durable commit."""
    pairs, started_s = 0, time.monotonic()
    while time.monotonic() - started_s < LASTING_S:
        jobs, _ = store.jobs.claim("bench", NOW_MS, partial(fitting, (), large_files=2))
        if not jobs:
            break
        for job in jobs:
            _finish(store, job, pairs)
            pairs += 1
    return pairs, time.monotonic() - started_s


def _finish(store: Store, job: Job, number: int) -> None:
    hashed = replace(job, sha256=f"{number:064x}")
    store.jobs.finish(hashed, f"record-{number}", NOW_MS, adopted=True)


def _goals(result: Result) -> Iterator[Goal]:
    rate = result["pairs"] / result["seconds"]
    name = f"claim and finish with {result['rows']:,} rows"
    yield Goal(name, rate, 1500, "pairs per second", at_least=True)


def _lines(result: Result) -> Iterator[str]:
    rows, pairs, seconds = result["rows"], result["pairs"], result["seconds"]
    yield from table(
        ("Measure", "Value"),
        [
            (f"queueing {rows:,} files, {BATCH:,} per commit", f"{result['filling_s']:.1f} s"),
            ("database size", f"{result['bytes'] / MIB:.0f} MiB"),
            ("claimed and finished", f"{pairs / seconds:.0f} pairs per second, two commits each"),
            ("upper limit: half of the disk's syncs", f"{result['syncs_a_s'] / 2:.0f} per second"),
        ],
    )
    yield ""
    yield from profile_lines(result["profile"])


SCENARIO = Scenario("claims", "Queue with many rows", _run, _lines, _goals)
