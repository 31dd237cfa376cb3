"""
T9: real sockets that break at any byte, between the real service and the cloud.

``SYNCD_ONLY='"17"'`` runs one seed.
"""

import random
from pathlib import Path

import pytest

from tests.crash.lanes import each
from tests.oracle import check
from tests.scale import scaled
from tests.seeds import Seeds, named
from tests.sockets.rig import SINGLE_PUT_LIMIT, rigged
from tests.sockets.wire import Accident, Break, Wire
from tests.weights import write_safetensors

SEEDS = Seeds(Path(__file__).with_name("seeds_faults.txt"), fixed=600, count=scaled(200))
BATCH = 50
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


@pytest.mark.parametrize("seeds", SEEDS.batches(BATCH), ids=named)
def test_T9_whatever_breaks_on_the_wire_every_file_is_registered_once_and_as_it_is(
    seeds: list[str], models: Path, both: tuple[Wire, Wire], request: pytest.FixtureRequest
) -> None:
    assert max(SIZES.values()) > SINGLE_PUT_LIMIT

    attempt = SEEDS.remembering(lambda seed: go_through(seed, models, both))
    met = each(attempt, seeds, request, lanes=1)

    if len(met) == BATCH:
        assert sum(map(bool, met)) > len(met) / 2, "too few accidents happened"
