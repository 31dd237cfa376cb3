"""
T9: real sockets that break at any byte, between the real service and the cloud.

``SYNCD_ONLY='"17"'`` runs one seed; ``SYNCD_SOCKETS=60000`` runs so many.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.lanes import each
from tests.oracle import check
from tests.sockets.rig import SINGLE_PUT_LIMIT, rigged
from tests.sockets.wire import Accident, Break, Wire, wires
from tests.weights import write_safetensors

SEEDS = int(os.environ.get("SYNCD_SOCKETS", "600"))
SIZES = {
    "loras/small.safetensors": 700,
    "vae/middle.safetensors": 9_000,
    "checkpoints/parts.safetensors": 14_000,
}
BYTES = {("api", True): 2500, ("api", False): 2500, ("store", True): 10_000, ("store", False): 300}
"""About as many go over one connection of a run without accidents; True: from the client."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sockets") / "models"
    for rel_path, size in SIZES.items():
        write_safetensors(folder / rel_path, size)
    return folder


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Wire, Wire]]:
    with wires(2) as (api, store):
        yield api, store


def accidents(draw: random.Random) -> dict[str, list[Accident]]:
    """One to four, anywhere."""
    found: dict[str, list[Accident]] = {"api": [], "store": []}
    for turn in range(draw.choice([1, 1, 2, 3, 4])):
        host, what = draw.choice(["api", "store"]), draw.choice(list(Break))
        after = draw.choice(
            [0, 1, draw.randrange(300), draw.randrange(BYTES[host, what.on_request])]
        )
        found[host].append(Accident(what, turn, after))
    return found


def go_through(seed: str, models: Path, both: tuple[Wire, Wire]) -> int:
    """One run with its accidents, then calm ones; how many accidents there were."""
    draw = random.Random(seed)
    plan = accidents(draw)
    with rigged(models, both, accidents=plan, jitter=draw.random) as rig:
        try:
            first = rig.run()
            met = sum(wire.met for wire in both)
            codes = rig.settle()
            assert codes[-1] == 0, f"{first}, then {codes}"
            check(rig.evidence())
            assert len(rig.cloud.records()) == len(SIZES)
        except AssertionError as error:
            raise AssertionError(f"{plan}\n{error}\n{rig.said.getvalue()}") from error
        return met


def test_T9_whatever_breaks_on_the_wire_every_file_is_registered_once_and_as_it_is(
    models: Path, both: tuple[Wire, Wire], request: pytest.FixtureRequest
) -> None:
    assert max(SIZES.values()) > SINGLE_PUT_LIMIT

    seeds = [str(seed) for seed in range(SEEDS)]
    met = each(lambda seed: go_through(seed, models, both), seeds, request, lanes=1)

    assert sum(map(bool, met)) > len(met) / 2, "too few accidents happened"
