"""``make bench``: measure syncd against similar tools and against its performance goals."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from bench import backlog, big, claims, digest, flight, idle, latency, line, rescan, startup, swarm
from bench.machine import description
from bench.report import Document, markdown
from bench.scenario import Options, Scenario, report_progress

SCENARIOS = (
    big.WARM,
    big.COLD,
    digest.SCENARIO,
    flight.SCENARIO,
    line.SCENARIO,
    swarm.SCENARIO,
    backlog.SCENARIO,
    rescan.SCENARIO,
    latency.SCENARIO,
    claims.SCENARIO,
    startup.SCENARIO,
    idle.SCENARIO,
)

QUICK = {
    "rounds": 1,
    "gib": 0.25,
    "swarm_files": 20,
    "line_mbit": 200,
    "line_s": 2.0,
    "delays": (50,),
    "losses": (0.0, 0.1),
    "files": (2_000, 5_000),
    "burst": 500,
    "rows": 20_000,
    "idle_s": 5.0,
    "folders": 200,
    "slots": (1, 4),
}
"""Small sizes, to check that the benchmarks run; the results mean nothing."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _ints(text: str) -> tuple[int, ...]:
    return tuple(map(int, _words(text)))


def _floats(text: str) -> tuple[float, ...]:
    return tuple(map(float, _words(text)))


def parser() -> argparse.ArgumentParser:
    """Return the parser; lists are separated by commas."""
    made = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = made.add_argument
    names = ",".join(scenario.name for scenario in SCENARIOS)
    option("--only", type=_words, default=_words(names), help="scenarios to run")
    option("--quick", action="store_true", help="use small sizes, to check that everything runs")
    option(
        "--json",
        type=Path,
        help="save results in this file; results of other scenarios in it are kept",
    )
    option(
        "--write", type=Path, help="write the report to this file, and its plots to img/ next to it"
    )
    option(
        "--report",
        action="store_true",
        help="do not measure; report the results in the --json file",
    )
    option("--dir", type=Path, help="folder for test files; default: the temporary folder")
    option(
        "--profile",
        action="store_true",
        help="run most scenarios once more under py-spy",
    )
    option("--rounds", type=int, default=5, help="number of runs of each sender, interleaved")
    peers = _words("curl,rclone,s5cmd,aws,httpx")
    option("--peers", type=_words, default=peers, help="tools to compare with")
    option(
        "--gib", type=float, default=8.0, help="warm, cold, digest, flight: size of the file in GiB"
    )
    option(
        "--slots", type=_ints, default=(1, 2, 4, 8, 16), help="flight: numbers of parallel parts"
    )
    option("--swarm-files", type=int, default=1000, help="swarm: number of files of 1 MiB")
    option("--line-mbit", type=int, default=1000, help="line: bandwidth in Mbit/s")
    option("--line-s", type=float, default=15.0, help="line: seconds to measure each sender")
    option("--delays", type=_ints, default=(50, 100), help="line: round-trip times in ms")
    option("--losses", type=_floats, default=(0.0, 0.1), help="line: lost segments in per cent")
    option("--files", type=_ints, default=(100_000, 1_000_000), help="rescan: numbers of files")
    option("--burst", type=int, default=20_000, help="latency: number of files in the burst")
    option("--rows", type=int, default=1_000_000, help="claims: number of jobs in the queue")
    option("--idle-s", type=float, default=600.0, help="idle: duration in seconds")
    option("--folders", type=int, default=6000, help="idle: number of directories")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the selected scenarios and report.

    Raises:
        SystemExit: The arguments are invalid, or a measured program failed.
    """
    made = parser()
    if "--quick" in (sys.argv[1:] if arguments is None else arguments):
        made.set_defaults(**QUICK)
    given = made.parse_args(arguments)
    unknown = set(given.only) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        made.error(f"no such scenario: {', '.join(sorted(unknown))}")
    options = Options(**{field.name: getattr(given, field.name) for field in fields(Options)})
    document = _kept(given.json)
    if not given.report:
        _measure(
            [each for each in SCENARIOS if each.name in given.only], options, document, given.json
        )
    pictures = given.write.parent / "img" if given.write else None
    report = "\n".join(markdown(document, SCENARIOS, pictures)).rstrip() + "\n"
    if given.write:
        given.write.write_text(report, "utf-8")
    else:
        sys.stdout.write(report)


def _kept(path: Path | None) -> Document:
    """Return the results of earlier runs; each scenario keeps its latest result."""
    if path is not None and path.exists():
        document: Document = json.loads(path.read_text("utf-8"))
        return document
    return {"machine": description(), "scenarios": {}}


def _measure(
    scenarios: Sequence[Scenario], options: Options, document: Document, path: Path | None
) -> None:
    document["machine"] = description()
    for scenario in scenarios:
        report_progress(f"== {scenario.title}")
        document["scenarios"][scenario.name] = scenario.run(options)
        if path is not None:  # after each, in case the next one is interrupted
            path.write_text(json.dumps(document), "utf-8")


if __name__ == "__main__":
    main()
