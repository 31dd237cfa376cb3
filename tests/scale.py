"""
How much of each layer is run: ``SYNCD_TEST_SCALE`` is ``push`` (the default), ``soak``, ``nightly``
or, for the planted bugs, ``taste``.

A push tries the same cases every time; ``soak`` and ``nightly`` try others each time. What they
drew from is ``SYNCD_TEST_SEED``, which is shown at the end of a run and may be given.
"""

import os
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Cases, by layer."""

    examples: int
    """T2: of each property."""
    machine_runs: int
    """T3: of each state machine, ``MACHINE_STEPS`` each."""
    simulations: int
    """T4: seeds beside those that once failed."""
    kill_points: int
    """T5: in all."""
    beginnings: tuple[bool, ...]
    """T6: whether to begin with nothing, and where a run before left off."""
    images: int
    """T7: in all."""
    mutations: int
    """T12: server answers, in all."""
    soak_days: int
    """T15: simulated."""
    soak_files: int
    """T15: in the tree."""
    disk_stride: int
    """T8: of a call made very often, each so-manieth is hit."""


MACHINE_STEPS = 50

SCALES = {
    "taste": Scale(100, 60, 50, 200, (True,), 2_000, 2_000, 2, 100, 64),
    "push": Scale(500, 300, 1_200, 600, (True,), 20_000, 20_000, 30, 300, 8),
    "soak": Scale(2_000, 1_000, 5_000, 3_000, (True, False), 60_000, 100_000, 30, 3_000, 2),
    "nightly": Scale(
        10_000, 4_000, 30_000, 20_000, (True, False), 1_000_000, 1_000_000, 30, 10_000, 1
    ),
}

NAME = os.environ.get("SYNCD_TEST_SCALE", "push")
if NAME not in SCALES:
    raise SystemExit(f"SYNCD_TEST_SCALE={NAME}: it is one of {', '.join(SCALES)}")

SCALE = SCALES[NAME]
FIXED = NAME in ("taste", "push")
"""Are the cases the same in every run?"""

# Set, not only read: the processes that share a run's tests have to agree on them.
SEED = os.environ.setdefault("SYNCD_TEST_SEED", "1" if FIXED else secrets.token_hex(4))
