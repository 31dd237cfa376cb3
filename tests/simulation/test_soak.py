"""T15: a month of the whole daemon in virtual time, after which it takes no more than before."""

import asyncio
import os
import random
from dataclasses import dataclass
from pathlib import Path

from syncd.sandbox.faults import Fault, Rule
from tests.matrix.stage import Stage, staged
from tests.scale import SEED, scaled
from tests.simulation.tree import Tree
from tests.simulation.world import SMALL

DAY_S = 24 * 3600.0
CHANGES_A_DAY = 10
MIB = 1024 * 1024
DAYS = min(30, scaled(6))
FILES = scaled(100)
TABLES = (
    "file",
    "job",
    "job_event",
    "job_attempt",
    "part",
    "plan",
    "upload",
    "record",
    "hold",
    "route",
)


@dataclass(frozen=True, slots=True)
class Day:
    """What the program takes at the end of a day."""

    resident: int
    descriptors: int
    log: int
    rows: dict[str, int]


FAULTS = [
    Rule(fault, status=status, performed=performed, probability=0.002)
    for fault, status, performed in (
        (Fault.ANSWER, 503, False),
        (Fault.ANSWER, 500, True),
        (Fault.RESET, 503, False),
        (Fault.LOST_ANSWER, 503, False),
        (Fault.MALFORMED_JSON, 503, False),
    )
]


def tree_of(stage: Stage) -> Tree:
    folders = ("loras", "checkpoints", "vae/old")
    return Tree(
        stage.root,
        random.Random(f"{SEED}:soak"),
        lambda: int(stage.clock.now_s() * 1e9),
        stage.hint,
        SMALL,
        tuple(f"{folders[n % 3]}/{n}.safetensors" for n in range(FILES)),
    )


async def days_of(stage: Stage, tree: Tree) -> list[Day]:
    """Faults all the time, and changes in the first two thirds."""
    stage.far.faults.add(*FAULTS)
    tree.fill()
    stage.start()
    days = []
    for number in range(DAYS):
        changes = CHANGES_A_DAY if 0 < number < DAYS * 2 // 3 else 0
        for _ in range(changes):
            await asyncio.sleep(DAY_S / CHANGES_A_DAY)
            tree.change()
        if not changes:
            await asyncio.sleep(DAY_S)
        days.append(measured(stage))
        stage.log.seek(0)
        stage.log.truncate()
    await stage.stop()
    return days


def measured(stage: Stage) -> Day:
    rows = {table: stage.query(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return Day(
        resident * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir("/proc/self/fd")),
        (stage.state / "syncd.db-wal").stat().st_size,
        rows,
    )


@staged(settings={"settle": {}, "upload": {}})
async def test_T15_month_of_changes_does_not_grow_memory_files_or_rows(stage: Stage) -> None:
    tree = tree_of(stage)
    days = await days_of(stage, tree)
    held = {(each.model_path, each.file_hash) for each in stage.far.cloud.records()}
    still = tree.still(None)
    settled, last = days[DAYS * 2 // 3], days[-1]

    assert {(path, f"sha256:{sha256}") for path, sha256 in still.items()} <= held
    assert not stage.far.crashes
    assert last.rows["file"] == len(tree.paths())
    assert last.rows == settled.rows  # neither walks nor faults leave anything behind
    jobs = FILES + CHANGES_A_DAY * DAYS
    assert last.rows["job"] <= jobs * 1.2
    assert last.rows["job_event"] <= 8 * jobs
    assert last.rows["job_attempt"] <= jobs * 0.2
    assert last.rows["upload"] <= CHANGES_A_DAY * DAYS  # a file that grew may go in parts
    assert last.rows["hold"] == 0
    assert {day.descriptors for day in days} == {days[0].descriptors}
    assert max(day.log for day in days) <= 8 * MIB
    assert last.resident - days[min(3, len(days) - 1)].resident <= 16 * MIB
