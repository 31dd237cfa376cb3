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
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory import folder
from tests.oracle import check
from tests.scale import scaled
from tests.seeds import Seeds, named
from tests.simulation.world import run

SEEDS = Seeds(Path(__file__).with_name("seeds.txt"), fixed=1_200, count=scaled(320))
BATCH = 25
PROJECT = Path(__file__).parents[2]


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


@pytest.mark.parametrize("seeds", SEEDS.batches(BATCH), ids=named)
def test_T4_every_unchanged_file_is_registered_once_after_any_faults(seeds: list[str]) -> None:
    attempt, failed = SEEDS.remembering(require_allowed), list[str]()
    for seed in seeds:
        try:
            attempt(seed)
        except Exception:
            failed.append(f"{traceback.format_exc()}\nrepeat with: SYNCD_SEEDS={seed}")

    if failed:
        pytest.fail("\n\n".join(failed), pytrace=False)


def require_allowed(seed: str) -> None:
    """Run one seed and check what it left."""
    with folder() as place:
        outcome = run(seed, place, keep_log=hashlib.sha256(seed.encode()).digest()[0] < 32)
        try:
            check(outcome.evidence)
            assert outcome.story.grave or not outcome.rejected, "a passing fault ended a job"
        except AssertionError as error:
            error.add_note("\n".join([f"{outcome.story}", *outcome.diary, *outcome.rejected]))
            raise


@pytest.mark.parametrize("seed", ["4", "110", "128"])
def test_O10_one_seed_has_one_history_in_every_process(seed: str) -> None:
    code = f"from tests.simulation.test_simulation import history_of; print(history_of('{seed}'))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=PROJECT,
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
