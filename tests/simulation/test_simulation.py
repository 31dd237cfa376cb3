"""
T4: the whole daemon in virtual time, seed by seed.

``SYNCD_SEEDS=a,b`` runs just these; ``SYNCD_SIMULATIONS=20000`` runs that many fresh ones beside
the fixed.
"""

import contextlib
import gc
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracle import check, o10_one_seed_one_history
from tests.simulation.world import Outcome, run

FIXED = 600
FRESH = int(os.environ.get("SYNCD_SIMULATIONS", "600"))
LISTED = [
    line
    for line in Path(__file__).with_name("seeds.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
ANCHOR = Path(__file__).parents[2]


def _seeds() -> list[str]:
    if chosen := os.environ.get("SYNCD_SEEDS"):
        return chosen.split(",")
    today = f"{time.time_ns() // 1000:x}"
    return [*LISTED, *map(str, range(FIXED)), *(f"{today}.{n}" for n in range(FRESH))]


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


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder, in memory where there is such a place: fsync costs nothing there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="syncd-simulation-", dir=memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("seed", _seeds())
def test_T4_whatever_happens_every_still_file_is_registered_once_and_as_it_is(seed: str) -> None:
    with _folder() as folder:
        outcome = run(seed, folder, keep_log=_is_logged(seed))
        try:
            check(outcome.evidence)
            assert outcome.story.grave or not outcome.rejected, "a passing fault ended a job"
        except AssertionError as error:
            pytest.fail(_told(outcome, error), pytrace=False)


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_O10_one_seed_has_one_history(seed: str) -> None:
    with _folder() as first, _folder() as second:
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
    with _folder() as folder:
        history = run(seed, folder).evidence.history
    return hashlib.sha256(repr(history).encode()).hexdigest()


def _is_logged(seed: str) -> bool:
    return hashlib.sha256(seed.encode()).digest()[0] < 32


def _told(outcome: Outcome, error: AssertionError) -> str:
    again = f"SYNCD_SEEDS={outcome.story.seed} {sys.executable} -m pytest {Path(__file__)}"
    parts = [
        f"{outcome.story}",
        *outcome.diary,
        f"{error}",
        *outcome.rejected,
        f"Again: {again}\nThen add the seed to tests/simulation/seeds.txt.",
    ]
    return "\n".join(parts)
