"""
Runs the nearest tests on mutants of ``core``, ``store``, ``upload`` and the ingester.

``make mutants`` draws places in the code at random, changes one at a time with cosmic-ray, and runs
the tests that are nearest to the changed module. It prints how many mutants the tests killed, module
by module, and writes those that survived to ``build/mutants/survivors.txt``. Only the changed module
differs from the program, so a test that fails without the change fails the whole run first.

Mutants of ``|`` are left out: nearly all of them are unions of types, which fail at import. So are
the flags of ``@dataclass``, which no behaviour depends on.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.planted.run import MEMORY, PROJECT, copied, first_failed

TARGETS = (
    "syncd/core",
    "syncd/store",
    "syncd/upload",
    "syncd/ingest/ingester.py",
    "syncd/ingest/settle_tracker.py",
)
BUILD = PROJECT / "build" / "mutants"
COSMIC_RAY = BUILD / "bin" / "cosmic-ray"
LEFT_OUT = re.compile(r"core/(ReplaceBinaryOperator_BitOr_|RemoveDecorator|ExceptionReplacer)")

NEAREST = {
    "syncd/core/catalog/drift.py": (
        "tests/unit/test_plan_file.py tests/property/test_drift_properties.py"
    ),
    "syncd/core/jobs/parts.py": "tests/unit/test_parts.py",
    "syncd/core/jobs/retry_policy.py": (
        "tests/unit/test_retry_policy.py tests/property/test_retry_properties.py"
    ),
    "syncd/core/catalog/permissions.py": "tests/integration/test_status_plan.py -k I21",
    "syncd/core/units.py": "tests/unit/test_config.py",
    "syncd/store/reports.py": "tests/integration/test_status_plan.py",
    "syncd/store/outline.py": "tests/integration/test_status_plan.py",
    "syncd/store": "tests/integration/test_store.py",
    "syncd/upload/hash_window.py": "tests/unit/test_hash_window.py",
    "syncd/upload/limits.py": "tests/unit/test_limits.py tests/unit/test_executors.py",
    "syncd/upload": (
        "tests/matrix/test_last_look.py tests/matrix/test_promises.py tests/matrix/test_matrix_server.py"
        " -k 'last_look or I09 or F36 or F41'"
    ),
    "syncd/ingest/ingester.py": "tests/integration/test_ingester.py",
    "syncd/ingest/settle_tracker.py": "tests/integration/test_ingester.py",
}
"""Tests of a module, or of a folder; a module of ``core`` is tested by what imports it."""

SLOW = ("test_cost_properties.py", "test_safe_machine.py")
"""Tests that import modules of ``core``, but take long or are about something else."""

CONFIG = """
[cosmic-ray]
module-path = {modules}
timeout = 60.0
excluded-modules = []
test-command = "true"
[cosmic-ray.distributor]
name = "local"
"""

CHANGE = """
import json, sys
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
for module, operator, occurrence in json.load(sys.stdin):
    print(json.dumps(mutate_code(open(module).read(), get_operator(operator)(), occurrence)))
"""
"""Runs beside cosmic-ray: reads mutants, and prints the changed source of each as a line of JSON."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one place."""

    module: str
    operator: str
    occurrence: int
    line: int
    column: int


def all_mutants() -> list[Mutant]:
    """Every mutant of the targets."""
    config, session = BUILD / "config.toml", BUILD / f"{os.getpid()}.sqlite"
    config.write_text(CONFIG.format(modules=json.dumps(TARGETS)))
    run = [os.fspath(COSMIC_RAY), "init", "--force", os.fspath(config), os.fspath(session)]
    subprocess.run(run, cwd=PROJECT, check=True, capture_output=True)
    dump = subprocess.run(
        [COSMIC_RAY, "dump", os.fspath(session)],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = [json.loads(line)[0]["mutations"][0] for line in dump.stdout.splitlines()]
    return [
        Mutant(m["module_path"], m["operator_name"], m["occurrence"], *m["start_pos"])
        for m in found
        if not LEFT_OUT.match(m["operator_name"]) and "@dataclass" not in _line(PROJECT, m)
    ]


def _line(folder: Path, mutation: dict[str, Any]) -> str:
    """The line that a mutation begins in."""
    lines: list[str] = (folder / mutation["module_path"]).read_text("utf-8").splitlines()
    return lines[int(mutation["start_pos"][0]) - 1].strip()


def drawn(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """*count* places drawn at random, and of each place one mutant."""
    draw = random.Random(seed)
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    for mutant in sorted(mutants, key=repr):
        places.setdefault((mutant.module, mutant.line, mutant.column), []).append(mutant)
    chosen = draw.sample(sorted(places), min(count, len(places)))
    return [draw.choice(places[place]) for place in chosen]


def nearest(module: str) -> str:
    """The tests that are nearest to *module*, as pytest takes them."""
    folder = str(Path(module).parent)
    named = NEAREST.get(module) or NEAREST.get(folder) or " ".join(_importing(Path(module)))
    return named or sys.exit(f"no tests are known for {module}: name them in NEAREST")


def _importing(module: Path) -> Iterator[str]:
    """Unit and property tests that import *module*."""
    package, name = re.escape(".".join(module.parent.parts)), module.stem
    imports = re.compile(rf"{package}\.{name}\b|from {package} import .*\b{name}\b")
    for folder in ("unit", "property"):
        for path in sorted((PROJECT / "tests" / folder).glob("test_*.py")):
            if path.name not in SLOW and imports.search(path.read_text("utf-8")):
                yield str(path.relative_to(PROJECT))


def changed(mutants: Sequence[Mutant], copy: Path) -> list[str]:
    """The module of each mutant, with the change made."""
    asked = json.dumps([(m.module, m.operator, m.occurrence) for m in mutants])
    python = [os.fspath(COSMIC_RAY.with_name("python")), "-c", CHANGE]
    run = subprocess.run(python, cwd=copy, input=asked, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def is_killed(mutant: Mutant, source: str, copy: Path) -> bool:
    """Put *source* in place of the module in *copy*, run its tests, and undo it."""
    path = copy / mutant.module
    original = path.read_text("utf-8")
    try:
        path.write_text(source, "utf-8")
        return fails(nearest(mutant.module), copy)
    finally:
        path.write_text(original, "utf-8")


def fails(tests: str, copy: Path) -> bool:
    """Do *tests* fail, or come to no end?"""
    try:
        scaled = f"SYNCD_TEST_SCALE=taste {tests}"
        return first_failed(scaled, copy, copy.parent / "tmp") is not None
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return True


def shown(mutant: Mutant, copy: Path) -> str:
    """Where and what *mutant* is, with the line as it was."""
    line = (copy / mutant.module).read_text("utf-8").splitlines()[mutant.line - 1].strip()
    return f"{mutant.module}:{mutant.line}:{mutant.column} {mutant.operator}\n    {line}\n"


def table(results: Sequence[tuple[Mutant, bool]]) -> Iterator[str]:
    """A row for each module, and one for all."""
    yield "| Module | Killed | Mutants | % |"
    yield "|---|---|---|---|"
    for module in sorted({mutant.module for mutant, _ in results}):
        yield _row(f"`{module}`", [killed for mutant, killed in results if mutant.module == module])
    yield _row("all", [killed for _, killed in results])


def _row(name: str, killed: Sequence[bool]) -> str:
    return f"| {name} | {sum(killed)} | {len(killed)} | {100 * sum(killed) // len(killed)} |"


def tried(mutants: Sequence[Mutant], minutes: float, log: Path) -> list[tuple[Mutant, bool]]:
    """Try *mutants* in their order until *minutes* have passed; a line for each survivor."""
    until_s = time.monotonic() + 60 * minutes
    results: list[tuple[Mutant, bool]] = []
    sound: set[str] = set()
    with TemporaryDirectory(prefix="mutants-", dir=MEMORY) as folder:
        copy = copied(Path(folder))
        with log.open("w", encoding="utf-8") as survivors:
            for mutant, source in zip(mutants, changed(mutants, copy), strict=True):
                if time.monotonic() > until_s:
                    break
                tests = nearest(mutant.module)
                if tests not in sound and fails(tests, copy):
                    sys.exit(f"these tests fail without a change: {tests}")
                sound.add(tests)
                results.append((mutant, is_killed(mutant, source, copy)))
                if not results[-1][1]:
                    print(line := shown(mutant, copy), end="", flush=True)
                    survivors.write(line)
                    survivors.flush()
    return results


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser()
    options.add_argument("--count", type=int, default=300, help="mutants to draw")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--minutes", type=float, default=60, help="the longest that a run takes")
    options.add_argument("--only", nargs="*", default=[""], help="modules whose path begins so")
    options.add_argument("--survivors", type=Path, default=BUILD / "survivors.txt")
    chosen = options.parse_args()
    mutants = [m for m in all_mutants() if m.module.startswith(tuple(chosen.only))]
    results = tried(drawn(mutants, chosen.count, chosen.seed), chosen.minutes, chosen.survivors)
    print(*table(results), sep="\n")
    print(
        f"seed {chosen.seed}, {len(results)} of {len(mutants)} mutants; survivors: {chosen.survivors}"
    )


if __name__ == "__main__":
    main()
