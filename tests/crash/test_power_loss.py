"""T7: whatever of its unsynced writes a disk loses, every acknowledged commit is there."""

import os
import random
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncd.store.store import Store
from tests.crash.lanes import each
from tests.crash.powerloss import Disk, calls
from tests.crash.scenario import Theatre
from tests.scale import SEED, scaled
from tests.tools import TRACING

pytestmark = [pytest.mark.crash, pytest.mark.needs("strace", TRACING)]

IMAGES = scaled(6_000)
RECORD = (
    "-f", "-y", "-xx", "-s", "1000000",
    "-e", "trace=openat,write,pwrite64,ftruncate,fsync,fdatasync,unlink,rename",
)  # fmt: skip

Rows = int
"""A hash over all that a database says."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A disk between two calls, and how many statements the program had been told are done."""

    disk: Disk
    acknowledged: int


@dataclass(frozen=True, slots=True)
class Recording:
    """A run: its moments, and what the database said after each acknowledged statement."""

    moments: Sequence[Moment]
    rows: Sequence[Rows]


def recorded(theatre: Theatre, *, fresh: bool) -> Recording:
    """The run of a scene, call by call."""
    with theatre.scene(fresh=fresh) as scene:
        disk, log = Disk.holding(scene.state), Path(f"{scene.folder}/calls")
        assert scene.run(acknowledge=True, strace=[*RECORD, "-o", str(log)]) == 0, scene.log()
        place, acks = Place(scene.folder / "replay"), Path(f"{scene.out}.acks")
        moments, rows = [Moment(disk, 0)], [place.rows(disk.now())]
        for call in calls(log):
            disk = disk.after(call, scene.state)
            if call.path == acks and call.name == "write":
                rows.append(place.rows(disk.now()))
            moments.append(Moment(disk, len(rows) - 1))
    return Recording(moments, rows)


class Place:
    """Where images are laid out and opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def rows(self, files: dict[str, bytes]) -> Rows:
        """
        Lay *files* out, and read all that the database among them says.

        Raises:
            AssertionError: It is damaged.
        """
        for path in self._folder.iterdir():
            path.unlink()
        for name, content in files.items():
            (self._folder / name).write_bytes(content)
        with closing(sqlite3.connect(self._folder / "syncd.db", isolation_level=None)) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            tables = raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")
            return hash(
                tuple((t, *raw.execute(f"SELECT * FROM {t}")) for (t,) in tables.fetchall())
            )

    def open_store(self) -> None:
        """The program itself opens what is there."""
        Store(os.fspath(self._folder)).close()


@pytest.mark.parametrize("fresh", [True, False], ids=["first-run", "later-run"])
def test_I06_every_acknowledged_commit_survives_a_loss_of_power(
    theatre: Theatre, fresh: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recording = recorded(theatre, fresh=fresh)
    places, folder = threading.local(), theatre.folder()

    def lose_power(case: tuple[int, str]) -> None:
        point, seed = case
        moment = recording.moments[point]
        if not hasattr(places, "own"):  # one for each thread
            places.own = Place(folder / f"place-{threading.get_ident()}")
        rows = places.own.rows(moment.disk.drawn(random.Random(f"{point} {seed}")))
        # What was acknowledged, or that and the one statement that was under way.
        assert rows in recording.rows[moment.acknowledged : moment.acknowledged + 2]
        places.own.open_store()

    points = range(len(recording.moments))
    rounds = range(-(-IMAGES // 2 // len(points)))
    each(lose_power, [(point, f"{SEED}.{n}") for n in rounds for point in points], request)
