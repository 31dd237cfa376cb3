"""The state directory as kill -9 leaves it, again and again."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.store.store import Store
from tests.integration.harness import YOUNGEST_S, Home, records
from tests.trap import Trap, nth, run
from tests.weights import MIB, sha256_of, write_safetensors

pytestmark = pytest.mark.crash

FILES = 30
STRIDES = (4, 9, 7, 5, 8, 3, 6, 10, 4, 9)
"""API and store calls that each run is allowed before it is killed."""


@pytest.fixture
def trap() -> Trap:
    return Trap()


@pytest.fixture
def cloud(tmp_path: Path, trap: Trap) -> Iterator[Sandbox]:
    switches = Switches(part_size=5 * MIB)
    with Sandbox(tmp_path / "cloud", switches=switches, listener=trap) as sandbox:
        yield sandbox


def test_a_state_directory_killed_again_and_again_is_whole_each_time(
    tmp_path: Path, cloud: Sandbox, trap: Trap
) -> None:
    home = Home.at(tmp_path / "home", cloud)
    home.sign_in(cloud)
    for number in range(FILES):
        write_safetensors(home.models / f"loras/{number}.safetensors", 50_000 + number)
    write_safetensors(home.models / "checkpoints/large.safetensors", 11 * MIB)
    time.sleep(YOUNGEST_S)
    for number, stride in enumerate(STRIDES):
        trap.kill(home, nth(None, stride))

        require_whole(home.state, tmp_path / f"copy-{number}")

    last = run(home, "--once")

    assert last.code == 0, last.err
    files = home.models.rglob("*.safetensors")
    assert records(cloud) == {f"models/{f.relative_to(home.models)}": sha256_of(f) for f in files}


def require_whole(state: Path, copy: Path) -> None:
    """What a copy of *state* made right now holds is sound, and the program opens it."""
    # A socket is no file that could be copied.
    shutil.copytree(state, copy, ignore=shutil.ignore_patterns("syncd.sock"))
    with closing(sqlite3.connect(copy / "syncd.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        (leased,) = db.execute("SELECT count(*) FROM job WHERE state = 'leased'").fetchone()
    store = Store(str(copy))
    try:
        freed = store.jobs.expire_all(1)
    finally:
        store.close()

    assert freed == leased
