"""T5: kill -9 while a register is on its way, which the cloud carries out after the restart."""

import os
import random
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.sandbox.faults import Fault, Faults, Rule
from syncd.sandbox.history import Entry
from syncd.sandbox.server import Sandbox
from syncd.types import Call
from tests.crash.lanes import each
from tests.crash.scenario import SIZES, Scene, Theatre
from tests.integration.harness import until
from tests.scale import SEED, scaled

pytestmark = pytest.mark.crash

ROUNDS = scaled(10)
LATEST_S = 1.5
"""A register is carried out at most two thirds of that after it arrived."""


class KillOnArrival:
    """
    Kills the client of the first register when it arrives, and delays what it asked for.

    Stands in for ``Faults.pick``: it is asked before the cloud does anything.
    """

    def __init__(self, faults: Faults, scene: Scene, delay_s: float) -> None:
        self._pick = faults.pick
        self._scene = scene
        self._delay_s = delay_s
        self.arrived = 0

    def __call__(self, entry: Entry) -> Rule | None:
        if entry.call != Call.REGISTER:
            return self._pick(entry)
        self.arrived += 1
        if self.arrived > 1:
            return None
        os.kill(int(Path(f"{self._scene.out}.pid").read_text()), signal.SIGKILL)
        return Rule(Fault.DELAY, call=Call.REGISTER, delay_s=self._delay_s)


def carried_out(cloud: Sandbox) -> int:
    """Count the registers whose body arrived whole: the kill may cut off another one."""
    return sum(e.status is not None for e in cloud.history.entries(Call.REGISTER))


def kill(theatre: Theatre, round_number: int) -> None:
    """One kill, an immediate restart, and one record of each file."""
    delay_s = random.Random(f"{SEED}:{round_number}").uniform(0.05, LATEST_S * 2 / 3)
    with theatre.scene(fresh=True) as scene:
        cloud = scene.cloud
        cloud.switches = replace(cloud.switches, register_repeats=True)
        arrivals = KillOnArrival(cloud.faults, scene, delay_s)
        cloud.faults.pick = arrivals  # type: ignore[method-assign]

        assert scene.run(latest_s=LATEST_S) == -signal.SIGKILL, scene.log()
        assert scene.run(latest_s=LATEST_S) == 0, scene.log()
        until(lambda: carried_out(cloud) == arrivals.arrived, "the late register")
        made = Counter(record["model_path"] for record in cloud.records())
        assert made == dict.fromkeys((f"models/{path}" for path in SIZES), 1), scene.log()


def test_I29_kill_during_register_and_late_arrival_leave_one_record(
    theatre: Theatre, request: pytest.FixtureRequest
) -> None:
    each(lambda number: kill(theatre, number), range(ROUNDS), request)
