"""
Start-up time of short commands, compared with an empty Python program.

The bytecode is compiled beforehand, as in an installation by pip.
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
"""Runs per round, because each is short."""


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
        with running(syncd(models, state, cloud=cloud), folder / "output") as daemon:
            wait_for(folder / "output", "scan.finished", daemon)
            with_daemon = _timed_in_turns({f"{NOTHING}{BESIDE}": nothing} | beside, options.rounds)
        profiles = {
            f"syncd {word}": profiled(word, quick(word)) for word in words if options.profile
        }
    return {"runs": runs, "beside": with_daemon, "profiles": profiles}


def _timed_in_turns(
    commands: Mapping[str, Command], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Run each once to compile its bytecode, then measure them in turns."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(rounds * TIMES + 1):
        for name, command in commands.items():
            run = asdict(timed(name, command))
            if number:
                runs[name].append(run)
    return runs


def _installed(command: Command, folder: Path) -> Command:
    """Return *command* with a bytecode cache in *folder*."""
    bytecode = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    return Command(command.arguments, {**command.env, **bytecode})


def _never_failing(command: Command) -> Command:
    """Ignore the exit code: ``health`` fails without a daemon."""
    return command.within("sh", "-c", '"$@" || true', "sh")


def _ratios(runs: Mapping[str, list[dict[str, Any]]]) -> Iterator[tuple[str, float]]:
    """Yield the ratio of each command to the first one."""
    nothing, *others = ([run["wall_s"] for run in command] for command in runs.values())
    for name, walls in zip([*runs][1:], others, strict=True):
        yield name, paired(walls, nothing)


def _goals(result: Result) -> Iterator[Goal]:
    for runs in (result["runs"], result["beside"]):
        for name, ratio in _ratios(runs):
            yield Goal(f"{name}: relative to {NOTHING}", ratio, 4)


def _lines(result: Result) -> Iterator[str]:
    rows = [*result["runs"].items(), *result["beside"].items()]
    yield from table(
        ("Command", "Time s", "RSS MiB"),
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


SCENARIO = Scenario("startup", "Start-up of short commands", _run, _lines, _goals)
