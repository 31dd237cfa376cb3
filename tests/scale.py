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
    two_boxes: int
    """T4: seeds of two machines with one team."""
    renewals: int
    """T5: kills while a session is renewed, in all."""
    beginnings: tuple[bool, ...]
    """T6: whether to begin with nothing, and where a run before left off."""
    call_stride: int
    """T6: each so-manieth call."""
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
    sockets: int
    """T9: runs beside those that once failed."""
    moving: int
    """T14: files, ten a run."""
    late_registers: int
    """Kills of a process whose register the server carries out later."""
    swaps: int
    """Walks of a tree whose folders are swapped for links meanwhile."""


MACHINE_STEPS = 50

SCALES = {
    "taste": Scale(
        examples=100,
        machine_runs=60,
        simulations=50,
        two_boxes=20,
        renewals=100,
        beginnings=(True,),
        call_stride=1,
        images=2_000,
        mutations=2_000,
        soak_days=2,
        soak_files=100,
        disk_stride=64,
        sockets=50,
        moving=50,
        late_registers=5,
        swaps=500,
    ),
    "push": Scale(
        examples=300,
        machine_runs=200,
        simulations=400,
        two_boxes=60,
        renewals=80,
        beginnings=(True,),
        call_stride=3,
        images=8_000,
        mutations=10_000,
        soak_days=6,
        soak_files=100,
        disk_stride=16,
        sockets=200,
        moving=250,
        late_registers=10,
        swaps=1_000,
    ),
    "soak": Scale(
        examples=2_000,
        machine_runs=1_000,
        simulations=5_000,
        two_boxes=2_000,
        renewals=2_000,
        beginnings=(True, False),
        call_stride=1,
        images=60_000,
        mutations=100_000,
        soak_days=30,
        soak_files=3_000,
        disk_stride=2,
        sockets=3_000,
        moving=2_000,
        late_registers=200,
        swaps=20_000,
    ),
    "nightly": Scale(
        examples=10_000,
        machine_runs=4_000,
        simulations=30_000,
        two_boxes=10_000,
        renewals=10_000,
        beginnings=(True, False),
        call_stride=1,
        images=1_000_000,
        mutations=1_000_000,
        soak_days=30,
        soak_files=10_000,
        disk_stride=1,
        sockets=60_000,
        moving=20_000,
        late_registers=2_000,
        swaps=200_000,
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
