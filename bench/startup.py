"""
Start-up: what the quick commands take against an interpreter that does nothing.

With their bytecode at hand, as pip leaves it behind: a checkout whose interpreter may not write any
(PYTHONDONTWRITEBYTECODE) would be measured compiling.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.measure import Command, profile_lines, profiled, running, timed, wait_for
from bench.place import syncd, write_model
from bench.scenario import MIB, Goal, Options, Result, Scenario, paired, spread, table
from syncd.sandbox.server import Sandbox

NOTHING = "python -c pass"
ASKING = ("status", "health")
BESIDE = ", daemon running"
TIMES = 4
"""Runs a round: each is short."""


def _run(options: Options) -> Result:
    with TemporaryDirectory(prefix="syncd-bench-") as name, Sandbox() as cloud:
        folder = Path(name)
        models, state = folder / "models", folder / "state"
        write_model(models / "loras" / "one.safetensors", MIB)
        timed("syncd --once", syncd(models, state, "--once", cloud=cloud))

        def quick(word: str) -> Command:
            return _installed(syncd(models, state, word, cloud=cloud), folder)

        nothing = _installed(Command([sys.executable, "-c", "pass"]), folder)
        words = ("--help", *ASKING)
        alone = {f"syncd {word}": _never_failing(quick(word)) for word in words}
        beside = {f"syncd {word}{BESIDE}": _never_failing(quick(word)) for word in ASKING}
        runs = _timed_in_turns({NOTHING: nothing} | alone, options.rounds)
        with running(syncd(models, state, cloud=cloud), folder / "said") as daemon:
            wait_for(folder / "said", "scan.finished", daemon)
            told = _timed_in_turns({f"{NOTHING}{BESIDE}": nothing} | beside, options.rounds)
        profiles = {
            f"syncd {word}": profiled(word, quick(word)) for word in words if options.profile
        }
    return {"runs": runs, "beside": told, "profiles": profiles}


def _timed_in_turns(
    commands: Mapping[str, Command], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Each once that does not count, to leave its bytecode, then in turns."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(rounds * TIMES + 1):
        for name, command in commands.items():
            run = asdict(timed(name, command))
            if number:
                runs[name].append(run)
    return runs


def _installed(command: Command, folder: Path) -> Command:
    """*command* with its bytecode, wherever the sources may not have theirs beside them."""
    bytecode = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    return Command(command.arguments, {**command.env, **bytecode})


def _never_failing(command: Command) -> Command:
    """``health`` tells by its exit code that no daemon runs, which is no failure here."""
    return command.within("sh", "-c", '"$@" || true', "sh")


def _ratios(runs: Mapping[str, list[dict[str, Any]]]) -> Iterator[tuple[str, float]]:
    """Of each but the first, which is what they are held against."""
    nothing, *others = ([run["wall_s"] for run in each] for each in runs.values())
    for name, walls in zip([*runs][1:], others, strict=True):
        yield name, paired(walls, nothing)


def _goals(result: Result) -> Iterator[Goal]:
    for runs in (result["runs"], result["beside"]):
        for name, ratio in _ratios(runs):
            yield Goal(f"{name}: against {NOTHING}", ratio, 4)


def _lines(result: Result) -> Iterator[str]:
    rows = [*result["runs"].items(), *result["beside"].items()]
    yield from table(
        ("Command", "wall s", "RSS MiB"),
        (
            (
                name,
                spread((run["wall_s"] for run in runs), 3),
                f"{max(run['resident'] for run in runs) / MIB:.0f}",
            )
            for name, runs in rows
        ),
    )
    yield ""
    for name, profile in result["profiles"].items():
        yield f"{name}:"
        yield ""
        yield from profile_lines(profile)


SCENARIO = Scenario("startup", "Start-up of the quick commands", _run, _lines, _goals)
