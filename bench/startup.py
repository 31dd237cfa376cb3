"""Start-up: what the quick commands take against an interpreter that does nothing."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import Command, profile_lines, profiled, timed
from bench.place import syncd, write_model
from bench.scenario import MIB, Goal, Options, Result, Scenario, paired, spread, table
from syncd.cli.commands import COMMANDS
from syncd.sandbox.server import Sandbox

NOTHING = "python -c pass"
TIMES = 4
"""Runs a round: each is short."""


def _run(options: Options) -> Result:
    with TemporaryDirectory(prefix="syncd-bench-") as name, Sandbox() as cloud:
        folder = Path(name)
        models, state = folder / "models", folder / "state"
        write_model(models / "loras" / "one.safetensors", MIB)
        timed("syncd --once", syncd(models, state, "--once", cloud=cloud))
        quick = ["--help", "status", *(["health"] if "health" in COMMANDS else [])]
        commands = {NOTHING: Command([sys.executable, "-c", "pass"])} | {
            f"syncd {word}": _never_failing(syncd(models, state, word, cloud=cloud))
            for word in quick
        }
        runs: Result = {name: [] for name in commands}
        for _ in range(options.rounds * TIMES):
            for name, command in commands.items():
                runs[name].append(asdict(timed(name, command)))
        profiles = {
            f"syncd {word}": profiled(word, syncd(models, state, word, cloud=cloud))
            for word in quick
            if options.profile
        }
    return {"runs": runs, "profiles": profiles}


def _never_failing(command: Command) -> Command:
    """``health`` tells by its exit code that no daemon runs, which is no failure here."""
    return command.within("sh", "-c", '"$@" || true', "sh")


def _walls(result: Result, name: str) -> list[float]:
    return [run["wall_s"] for run in result["runs"][name]]


def _goals(result: Result) -> Iterator[Goal]:
    for name in result["runs"]:
        if name != NOTHING:
            ratio = paired(_walls(result, name), _walls(result, NOTHING))
            yield Goal(f"{name}: against {NOTHING}", ratio, 4)


def _lines(result: Result) -> Iterator[str]:
    yield from table(
        ("Command", "wall s", "RSS MiB"),
        (
            (name, spread(_walls(result, name), 3), f"{max(r['resident'] for r in runs) / MIB:.0f}")
            for name, runs in result["runs"].items()
        ),
    )
    yield ""
    for name, profile in result["profiles"].items():
        yield f"{name}:"
        yield ""
        yield from profile_lines(profile)


SCENARIO = Scenario("startup", "Start-up of the quick commands", _run, _lines, _goals)
