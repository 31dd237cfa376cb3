"""
T4: the whole daemon in virtual time, seed by seed.

``SYNCD_SEEDS=a,b`` runs just these.
"""

import gc
import hashlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.memory import folder
from tests.oracle import check, o10_one_seed_one_history
from tests.scale import SCALE, SEED
from tests.simulation.world import Outcome, run

FIXED = 1_200
BATCH = 25
LIST = Path(__file__).with_name("seeds.txt")
ANCHOR = Path(__file__).parents[2]


def _seeds() -> list[str]:
    if chosen := os.environ.get("SYNCD_SEEDS"):
        return chosen.split(",")
    fixed = [*listed(), *map(str, range(min(FIXED, SCALE.simulations)))]
    return [*fixed, *(f"{SEED}.{n}" for n in range(FIXED, SCALE.simulations))]


def listed() -> list[str]:
    """The seeds that once failed."""
    lines = LIST.read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _batches() -> list[list[str]]:
    seeds = _seeds()
    return [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]


@pytest.fixture(scope="module", autouse=True)
def _few_collections() -> Iterator[None]:
    """Each run makes much and leaves nothing: looking through it all the time would cost a tenth."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.parametrize("seeds", _batches(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_T4_whatever_happens_every_still_file_is_registered_once_and_as_it_is(
    seeds: list[str], record_property: Callable[[str, object], None]
) -> None:
    failed = [report for seed in seeds if (report := what_failed(seed))]
    record_property("cases", len(seeds))

    if failed:
        pytest.fail("\n\n".join(failed), pytrace=False)


def what_failed(seed: str) -> str | None:
    """Run one seed: None, or what went wrong and how to repeat it; it is on the list then."""
    with folder() as place:
        try:
            outcome = run(seed, place, keep_log=_is_logged(seed))
        except Exception:
            remember(seed)
            return f"{traceback.format_exc()}\n{_again(seed)}"
        try:
            check(outcome.evidence)
            assert outcome.story.grave or not outcome.rejected, "a passing fault ended a job"
        except AssertionError as error:
            remember(seed)
            return _report(outcome, error)
    return None


def remember(seed: str) -> None:
    """Put *seed* on the list, unless every run tries it anyway."""
    if seed not in (*listed(), *map(str, range(FIXED))):
        with LIST.open("a", encoding="utf-8") as file:
            file.write(f"{seed}\n")


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_O10_one_seed_has_one_history(seed: str) -> None:
    with folder() as first, folder() as second:
        o10_one_seed_one_history(run(seed, first).evidence, run(seed, second).evidence)


@pytest.mark.parametrize("seed", ["4", "110", "128"])
def test_O10_one_seed_has_one_history_in_every_process(seed: str) -> None:
    code = f"from tests.simulation.test_simulation import history_of; print(history_of('{seed}'))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=ANCHOR,
        check=True,
        capture_output=True,
        text=True,
    )

    assert elsewhere.stdout == f"{history_of(seed)}\n"


def history_of(seed: str) -> str:
    """A digest of all calls of a run."""
    with folder() as place:
        history = run(seed, place).evidence.history
    return hashlib.sha256(repr(history).encode()).hexdigest()


def _is_logged(seed: str) -> bool:
    return hashlib.sha256(seed.encode()).digest()[0] < 32


def _report(outcome: Outcome, error: AssertionError) -> str:
    parts = [
        f"{outcome.story}",
        *outcome.diary,
        f"{error}",
        *outcome.rejected,
        _again(outcome.story.seed),
    ]
    return "\n".join(parts)


def _again(seed: str) -> str:
    file = Path(__file__).relative_to(ANCHOR)
    return f"repeat with: SYNCD_SEEDS={seed} python -m pytest {file}"
