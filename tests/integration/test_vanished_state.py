"""A state directory that is removed, renamed or replaced under a running daemon."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from syncd.store.lock import is_locked
from tests.integration.harness import DEADLINE_S, Home


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "cloud") as cloud:
        yield cloud


@pytest.fixture
def home(tmp_path: Path, cloud: Sandbox) -> Home:
    return Home.at(tmp_path / "home", cloud)


def away(home: Home) -> Path:
    return home.state.parent / "away"


def remove_database(home: Home) -> None:
    (home.state / "syncd.db").unlink()


def rename_directory(home: Home) -> None:
    home.state.rename(away(home))


def remove_directory(home: Home) -> None:
    shutil.rmtree(home.state)


def empty_directory(home: Home) -> None:
    for path in home.state.iterdir():
        path.unlink()


CHANGES = [
    remove_database, rename_directory, remove_directory, empty_directory,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_I06_idle_daemon_whose_state_vanishes_ends_with_74(
    change: Callable[[Home], None], home: Home
) -> None:
    with home.daemon() as daemon:
        daemon.started()
        change(home)
        code = daemon.process.wait(DEADLINE_S)

    said = daemon.log.read_text()
    assert code == 74, said
    assert f"{home.state}/syncd.db" in said
    assert "was removed, renamed or replaced while syncd was running" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "state"),
    [(remove_database, "state"), (rename_directory, "away")],
)
def test_I08_second_daemon_is_kept_out_while_the_first_has_not_noticed(
    change: Callable[[Home], None], state: str, home: Home
) -> None:
    with home.daemon() as daemon:
        daemon.started()
        daemon.process.send_signal(signal.SIGSTOP)
        change(home)
        home.env["SYNCD_STATE_DIR"] = os.fspath(home.state.parent / state)
        second = home.once()
        daemon.process.send_signal(signal.SIGCONT)
        first = daemon.process.wait(DEADLINE_S)

    assert (second.code, first) == (75, 74)
    assert "Another syncd is using" in second.said
    assert not is_locked(home.env["SYNCD_STATE_DIR"])


def test_I08_daemon_that_lost_its_directory_leaves_the_files_of_the_next_one_alone(
    home: Home,
) -> None:
    """The next one makes a directory of the same name before the first has noticed."""
    with home.daemon() as first:
        first.started()
        first.process.send_signal(signal.SIGSTOP)
        rename_directory(home)
        with home.daemon() as second:
            second.started()
            before = {path.name: path.lstat().st_ino for path in home.state.iterdir()}
            first.process.send_signal(signal.SIGCONT)
            code = first.process.wait(DEADLINE_S)
            after = {path.name: path.lstat().st_ino for path in home.state.iterdir()}
            status = home.status()

    assert code == 74
    assert {"syncd.db", "syncd.db-wal", "syncd.db-shm", "syncd.sock"} <= before.keys()
    assert after == before
    assert status["running"]
