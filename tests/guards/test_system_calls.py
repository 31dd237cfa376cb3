"""
What syncd costs, in system calls of small fixed scenarios: bounds that no machine's mood moves.

Each bound leaves a little room above what is needed; what would double a cost breaks it. Where a
count grows with the work, two sizes are run and the difference is what is bounded, so that the
start of the program does not count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from tests.guards.calls import OPEN, READ, SEND, STAT, SYNC, Calls, once
from tests.integration.harness import Home
from tests.weights import MIB, write_safetensors

pytestmark = pytest.mark.needs("strace")

PART = 8 * MIB
"""Whole leaves, as the parts of the real service are; a leaf that is cut is read for both parts."""

FEW, MANY = 2, 5
"""Parts of a file, or small files: two sizes of one scenario."""

SLOTS = 3
BIG = "checkpoints/big.safetensors"


@dataclass(frozen=True, slots=True)
class Scene:
    """A machine and its cloud."""

    home: Home
    cloud: Sandbox

    def once(self) -> Calls:
        """What a run that ends well asks for."""
        return once(self.home, self.home.state.parent)

    def connects(self, calls: Calls) -> int:
        """Connections that were made to the object store."""
        api = calls.connects(urlsplit(self.cloud.base_url).port or 0)
        return calls.connects_at_all() - api


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A tree whose one file is in the catalog, parts of 8 MiB, a fixed number of slots."""
    with Sandbox(tmp_path / "cloud", switches=Switches(part_size=PART)) as cloud:
        home = Home.at(tmp_path / "home", cloud)
        home.sign_in(cloud)
        home.env |= {"SYNCD_UPLOAD__PARTS": str(SLOTS), "SYNCD_UPLOAD__PARTS_MAX": str(SLOTS)}
        write_safetensors(home.models / "vae/first.safetensors", 4000)
        assert home.once().code == 0  # the database is made, and the cloud is known
        yield Scene(home, cloud)


def commits(calls: Calls) -> int:
    """Each commit of the state database makes its log last."""
    return len(calls.of(SYNC, "syncd.db-wal>"))


def test_a_file_in_parts_is_read_twice_and_sent_once_in_large_pieces(scene: Scene) -> None:
    size = MANY * PART
    write_safetensors(scene.home.models / BIG, size)

    calls = scene.once()
    reads = calls.of(READ, BIG)
    sends = [call for call in calls.of(SEND, "TCP:[") if call.result > 4096]

    # Once to hash, once to send; beside that the header, and what the structure check looks at.
    assert size <= sum(call.result for call in reads) <= 2 * size + MIB
    assert len(reads) <= 2 * size // (256 * 1024) + 32  # no piece below 256 KiB
    # The kernel takes what fits into a socket's buffer, so a piece of 512 KiB may leave in several.
    assert sum(call.result for call in sends) <= size + MIB
    assert len(sends) <= 16 * size // MIB  # pieces of 32 KiB would be 32
    assert scene.connects(calls) <= SLOTS  # one a slot, kept for all parts


def test_a_part_costs_one_commit(scene: Scene) -> None:
    def cost(parts: int) -> int:
        write_safetensors(scene.home.models / f"loras/{parts}.safetensors", parts * PART)
        return commits(scene.once())

    few, many = cost(FEW), cost(MANY)

    # Its etag with all that belongs to it; the rest of the room is for a lease renewed meanwhile.
    assert many - few <= MANY - FEW + 2


def test_a_small_file_costs_few_commits_three_requests_and_no_connection_of_its_own(
    scene: Scene,
) -> None:
    def cost(files: int) -> Calls:
        for number in range(files):
            name = f"loras/{files}-{number}.safetensors"
            write_safetensors(scene.home.models / name, 4000 + files + number)
        return scene.once()

    few, many = cost(FEW), cost(2 * MANY)

    # Claim, plan, key, intent to send, stored, intent to register, record and end, bytes counted;
    # queueing is one commit for all.
    assert commits(many) - commits(few) <= 9 * (2 * MANY - FEW)
    assert scene.connects(many) <= SLOTS
    files = 1 + FEW + 2 * MANY
    assert scene.cloud.history.count() <= 3 * files + 6  # presign, PUT, register


def test_rescan_without_changes_stats_each_file_once_and_opens_none(
    scene: Scene,
) -> None:
    def rescan(texts: int) -> Calls:
        for number in range(texts):
            scene.home.write(f"loras/{number}.note", b"x")
        assert scene.home.once().code == 0
        return scene.once()

    few, many = rescan(5), rescan(150)
    looked_at = [call.arguments for call in many.of(STAT) if ".note" in call.arguments]

    assert len(looked_at) == 150
    assert many.of(OPEN, ".note") == []
    assert many.of(OPEN, "first.safetensors") == []
    assert commits(many) == commits(few)
    assert (
        many.connects_at_all() == few.connects_at_all() <= 1
    )  # one look at the catalog, that what is registered is still there
