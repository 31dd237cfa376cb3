"""
Scan large trees, the first time and again without changes, compared with a plain directory walk.

syncd skips all of these files, so a scan compares and stores them, and nothing is sent.
``python -m bench.rescan FOLDER`` is the plain walk; it prints its seconds.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import plots
from bench.measure import (
    Command,
    events,
    most_resident,
    profile_lines,
    profiled,
    running,
    timed,
    wait_for,
)
from bench.place import syncd
from bench.scenario import (
    MIB,
    Goal,
    Options,
    Result,
    Scenario,
    median,
    paired,
    report_progress,
    spread,
    table,
)

A_FOLDER = 1000
ROUNDS = 3
"""Maximum number of rounds per tree, because a million files take long."""


def _run(options: Options) -> Result:
    rounds = min(options.rounds, ROUNDS)
    return {"trees": [_tree(files, rounds, options) for files in options.files]}


def _tree(files: int, rounds: int, options: Options) -> Result:
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name:
        folder = Path(name)
        models = folder / "models"
        report_progress(f"creating {files} files ...")
        _make(models, files)
        result: Result = {"files": files, "walk_s": [], "first": [], "again": [], "profiles": {}}
        _walked(models)  # fill the kernel's cache
        for number in range(rounds):
            state = folder / f"state-{number}"
            result["walk_s"].append(_walked(models))
            for which in ("first", "again"):
                scan = _scan(syncd(models, state), folder / "output")
                result[which].append(scan)
                report_progress(f"{files} files, {which}: {scan['wall_s']:.2f} s")
        if options.profile:
            command = syncd(models, folder / "profiled", "--once")
            for which in ("first", "again"):
                result["profiles"][which] = profiled(f"the {which} scan", command)
        return result


def _make(models: Path, files: int) -> None:
    """Create text files, which syncd skips."""
    for number in range(files):
        folder = f"{models}/loras/{number // A_FOLDER:05}"
        if number % A_FOLDER == 0:
            os.makedirs(folder)
        os.close(os.open(f"{folder}/{number:08}.txt", os.O_CREAT | os.O_WRONLY))


def _walked(models: Path) -> float:
    output = models.parent / "walked"
    timed("walk", Command([sys.executable, "-m", "bench.rescan", str(models)]), output)
    return float(output.read_text())


def _scan(command: Command, output: Path) -> Result:
    """Measure the daemon's first scan and its maximum resident size until then."""
    with running(command, output) as process:
        wait_for(output, "scan.finished", process, within_s=1800)
        resident = most_resident(process.pid)
    (event,) = events(output, "scan.finished")
    return {"wall_s": event["seconds"], "resident": resident, "changed": event["changed"]}


def walk(folder: str) -> int:
    """Stat every file below *folder*; return their number."""
    pending, files = [folder], 0
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)
                    files += 1
    return files


def _walls(tree: Result, which: str) -> list[float]:
    return [scan["wall_s"] for scan in tree[which]]


def _goals(result: Result) -> Iterator[Goal]:
    for tree in result["trees"]:
        files = f"{tree['files']:,} files"
        for which, name, bound in (
            ("first", "first scan", 2.5),
            ("again", "scan of an unchanged tree", 1.6),
        ):
            ratio = paired(_walls(tree, which), tree["walk_s"])
            yield Goal(f"{files}: {name} relative to a plain walk", ratio, bound)
            resident = max(scan["resident"] for scan in tree[which]) / MIB
            yield Goal(f"{files}: RSS of the {name}", resident, 100, "MiB")


def _lines(result: Result) -> Iterator[str]:
    yield "Seconds, median (minimum - maximum); names are in the kernel's cache."
    yield ""
    yield from table(
        ("Files", "Plain walk", "First scan", "Unchanged", "RSS MiB first / unchanged"),
        (
            (
                f"{tree['files']:,}",
                spread(tree["walk_s"]),
                spread(_walls(tree, "first")),
                spread(_walls(tree, "again")),
                " / ".join(
                    f"{max(scan['resident'] for scan in tree[which]) / MIB:.0f}"
                    for which in ("first", "again")
                ),
            )
            for tree in result["trees"]
        ),
    )
    yield ""
    for tree in result["trees"]:
        for which, profile in tree["profiles"].items():
            yield f"{tree['files']:,} files, {which}:"
            yield ""
            yield from profile_lines(profile)


def _plots(result: Result, folder: Path) -> Iterator[Path]:
    files = [tree["files"] for tree in result["trees"]]
    lines = {"plain walk": [median(tree["walk_s"]) for tree in result["trees"]]} | {
        name: [median(_walls(tree, which)) for tree in result["trees"]]
        for which, name in (("first", "first scan"), ("again", "unchanged tree"))
    }
    yield plots.draw(
        folder / "rescan.png",
        {name: (files, seconds) for name, seconds in lines.items()},
        x="files",
        y="seconds",
    )


SCENARIO = Scenario("rescan", "Scanning large trees", _run, _lines, _goals, _plots)


if __name__ == "__main__":
    started_s = time.monotonic()
    walk(sys.argv[1])
    print(time.monotonic() - started_s)
