"""Memory, throughput and page cache by the number of parallel parts."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import plots
from bench.measure import cached, drop_cached, running, usage
from bench.place import PART_MIB, Place, syncd, with_file
from bench.scenario import GIB, MIB, Goal, Options, Result, Scenario, report_progress, table

EVERY_S = 0.2
BOUNDS = {4: 80, 16: 100}
"""Maximum RSS in MiB, by slots."""


def _run(options: Options) -> Result:
    size = int(options.gib * GIB)
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name:
        folder = Path(name)
        with with_file(folder, size) as place:
            return {
                "bytes": size,
                "runs": [_flight(place, folder, slots) for slots in options.slots],
            }


def _flight(place: Place, folder: Path, slots: int) -> Result:
    drop_cached(place.file)
    before = cached(place.file)
    command = syncd(
        place.file.parents[1],
        folder / f"state-{slots}",
        "--once",
        cloud=place.cloud,
        NETWORK__CA_BUNDLE=place.ca,
        UPLOAD__PARTS=slots,
        UPLOAD__PARTS_MAX=slots,
    )
    series: list[tuple[float, int]] = []
    started_s = time.monotonic()
    with running(command, folder / "output") as process:
        while process.poll() is None:
            series.append((time.monotonic() - started_s, _resident(process.pid)))
            time.sleep(EVERY_S)
    if process.returncode:
        text = (folder / "output").read_text("utf-8", "replace")
        raise SystemExit(f"syncd failed:\n{text[-4000:]}")
    wall_s = time.monotonic() - started_s
    report_progress(f"{slots} slots: {wall_s:.1f} s")
    return {
        "slots": slots,
        "wall_s": wall_s,
        "resident": series,
        "cache_grown": cached(place.file) - before,
    }


def _resident(pid: int) -> int:
    try:
        return usage(pid).resident
    except OSError:  # it ended in the meantime
        return 0


def _most(run: Result) -> float:
    return float(max(resident for _, resident in run["resident"]) / MIB)


def _goals(result: Result) -> Iterator[Goal]:
    for run in result["runs"]:
        if run["slots"] in BOUNDS:
            name = f"RSS, {run['slots']} parallel parts of {PART_MIB} MiB"
            yield Goal(name, _most(run), BOUNDS[run["slots"]], "MiB")
    grown = max(run["cache_grown"] for run in result["runs"]) / MIB
    yield Goal("page cache growth after a cold file", grown, 64, "MiB")


def _lines(result: Result) -> Iterator[str]:
    gib = result["bytes"] / GIB
    yield f"One file of {gib:g} GiB, not in the page cache, complete job."
    yield ""
    yield from table(
        ("Slots", "GiB/s", "Maximum RSS MiB", "Page cache growth MiB"),
        (
            (
                run["slots"],
                f"{gib / run['wall_s']:.2f}",
                f"{_most(run):.0f}",
                f"{run['cache_grown'] / MIB:.0f}",
            )
            for run in result["runs"]
        ),
    )
    yield ""


def _plots(result: Result, folder: Path) -> Iterator[Path]:
    runs, gib = result["runs"], result["bytes"] / GIB
    slots = [run["slots"] for run in runs]
    speed = [gib / run["wall_s"] for run in runs]
    yield plots.draw(
        folder / "throughput.png", {"syncd": (slots, speed)}, x="parallel parts", y="GiB/s"
    )
    curves = {
        f"{run['slots']} parallel parts": (
            [at_s for at_s, _ in run["resident"]],
            [resident / MIB for _, resident in run["resident"]],
        )
        for run in runs
        if run["slots"] in BOUNDS
    }
    yield plots.draw(folder / "memory.png", curves, x="seconds", y="RSS MiB", marks=False)


SCENARIO = Scenario("flight", "Parallel parts", _run, _lines, _goals, _plots)
