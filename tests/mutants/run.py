"""
Runs the nearest tests on mutants of ``core``, ``store``, ``upload`` and the ingester.

``make mutants`` draws places in the code at random, changes one at a time with cosmic-ray, and runs
the tests that are nearest to the changed module. It prints the mutants that survived, and how many were
killed. Only the changed module
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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

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


class Mutant(NamedTuple):
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
    cosmic_ray("init", "--force", os.fspath(config), os.fspath(session))
    dump = cosmic_ray("dump", os.fspath(session))
    found = [json.loads(line)[0]["mutations"][0] for line in dump.splitlines()]
    mutants = [
        Mutant(m["module_path"], m["operator_name"], m["occurrence"], *m["start_pos"])
        for m in found
    ]
    return [
        mutant
        for mutant in mutants
        if not LEFT_OUT.match(mutant.operator) and "@dataclass" not in line_of(mutant)
    ]


def cosmic_ray(*arguments: str) -> str:
    run = [os.fspath(COSMIC_RAY), *arguments]
    return subprocess.run(run, cwd=PROJECT, check=True, capture_output=True, text=True).stdout


def line_of(mutant: Mutant) -> str:
    """The line that the change begins in, as it is in the program."""
    return (PROJECT / mutant.module).read_text("utf-8").splitlines()[mutant.line - 1].strip()


def drawn(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """*count* places drawn at random, and of each place one mutant."""
    draw = random.Random(seed)
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    for mutant in sorted(mutants):
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
        taste = f"SYNCD_TEST_SCALE=taste {tests}"
        return first_failed(taste, copy, copy.parent / "tmp") is not None
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return True


def main() -> None:
    """Print each survivor, and the numbers."""
    options = argparse.ArgumentParser()
    options.add_argument("--count", type=int, default=300, help="mutants to draw")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--minutes", type=float, default=60, help="the longest that a run takes")
    chosen = options.parse_args()
    until_s = time.monotonic() + 60 * chosen.minutes
    mutants, killed = drawn(all_mutants(), chosen.count, chosen.seed), list[bool]()
    sound: set[str] = set()
    with TemporaryDirectory(prefix="mutants-", dir=MEMORY) as folder:
        copy = copied(Path(folder))
        for mutant, source in zip(mutants, changed(mutants, copy), strict=True):
            if time.monotonic() > until_s:
                break
            tests = nearest(mutant.module)
            if tests not in sound and fails(tests, copy):
                sys.exit(f"these tests fail without a change: {tests}")
            sound.add(tests)
            killed.append(is_killed(mutant, source, copy))
            if not killed[-1]:
                place = f"{mutant.module}:{mutant.line}:{mutant.column}"
                print(f"{place} {mutant.operator}\n    {line_of(mutant)}", flush=True)
    print(f"seed {chosen.seed}: {sum(killed)} of {len(killed)} mutants killed")


if __name__ == "__main__":
    main()
