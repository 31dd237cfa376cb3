"""T15: a month of the whole daemon in virtual time, after which it takes no more than before."""

import asyncio
import contextlib
import os
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.switches import Switches
from syncd.types import HintKind
from tests.memory import folder
from tests.scale import SEED, scaled
from tests.simulation.far_side import API_URL, FarSide, Weather
from tests.simulation.life import Life, settings_of, source_of
from tests.simulation.loop import VirtualClock, VirtualLoop
from tests.simulation.tree import Tree
from tests.simulation.world import SINGLE_PUT_LIMIT, SMALL, calendar, logged, scaled_down

DAY_S = 24 * 3600.0
CHANGES_A_DAY = 10
FAULTS = 0.01
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


class Month:
    """The daemon, its cloud and its tree; faults all the time, changes in the first two thirds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, place: Path) -> None:
        self.loop, self.clock = loop, VirtualClock(loop)
        self.state = place / "state"
        switches = Switches(part_size=5120, min_part_size=5120, access_token_lifetime_s=10**7)
        self.far = FarSide(place / "objects", SEED, self.clock.now_s, switches)
        self.far.faults.add(
            *(
                Rule(fault, status=status, performed=performed, probability=FAULTS / 5)
                for fault, status, performed in (
                    (Fault.ANSWER, 503, False),
                    (Fault.ANSWER, 500, True),
                    (Fault.RESET, 503, False),
                    (Fault.LOST_ANSWER, 503, False),
                    (Fault.MALFORMED_JSON, 503, False),
                )
            )
        )
        folders = ("loras", "checkpoints", "vae/old")
        self.tree = Tree(
            place / "models",
            random.Random(f"{SEED}:soak"),
            lambda: int(self.clock.now_s() * 1e9),
            self.emit,
            SMALL,
            tuple(f"{folders[n % 3]}/{n}.safetensors" for n in range(FILES)),
        )
        self.settings = settings_of(
            models_dir=place / "models",
            state_dir=self.state,
            api={"base_url": API_URL, "single_put_limit": SINGLE_PUT_LIMIT, "team_id": self.team},
        )
        self.life: Life | None = None

    @property
    def team(self) -> str:
        return self.far.accounts.team_id

    def emit(self, path: str, kind: HintKind) -> None:
        if self.life is not None:
            self.life.hint(path, kind)

    async def pass_by(self) -> list[Day]:
        self.tree.fill()
        self.life = Life(
            self.settings,
            source_of(self.far.session.access_token, self.team),
            self.far,
            Weather(random.Random(f"{SEED}:weather"), storm=False),
            self.clock,
            random.Random(f"{SEED}:life"),
        )
        living = asyncio.create_task(self.life.live())
        days = []
        for number in range(DAYS):
            changes = CHANGES_A_DAY if 0 < number < DAYS * 2 // 3 else 0
            for _ in range(changes):
                await asyncio.sleep(DAY_S / CHANGES_A_DAY)
                self.tree.change()
            if not changes:
                await asyncio.sleep(DAY_S)
            days.append(self.measure())
        self.life.service.stop()
        await living
        return days

    def measure(self) -> Day:
        with contextlib.closing(sqlite3.connect(self.state / "syncd.db")) as connection:
            rows = {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in TABLES
            }
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        return Day(
            resident * os.sysconf("SC_PAGE_SIZE"),
            len(os.listdir("/proc/self/fd")),
            (self.state / "syncd.db-wal").stat().st_size,
            rows,
        )


def test_T15_after_a_month_the_daemon_takes_no_more_than_after_days() -> None:
    loop = VirtualLoop()
    with folder() as place, scaled_down(), calendar(loop), logged(False):
        month = Month(loop, place)
        days = loop.run_until_complete(month.pass_by())
        loop.close()
    held = {(each.model_path, each.file_hash) for each in month.far.cloud.records()}
    still = month.tree.still(None)
    settled, last = days[DAYS * 2 // 3], days[-1]

    assert {(path, f"sha256:{sha256}") for path, sha256 in still.items()} <= held
    assert not month.far.crashes
    assert last.rows["file"] == len(month.tree.paths())
    assert last.rows == settled.rows  # neither walks nor faults leave anything behind
    jobs = FILES + CHANGES_A_DAY * DAYS
    assert last.rows["job"] <= jobs * 1.2
    assert last.rows["job_event"] <= 8 * jobs
    assert last.rows["job_attempt"] <= jobs * 0.2
    assert last.rows["upload"] == last.rows["hold"] == 0
    assert {day.descriptors for day in days} == {days[0].descriptors}
    assert max(day.log for day in days) <= 8 * MIB
    assert last.resident - days[min(3, len(days) - 1)].resident <= 16 * MIB
