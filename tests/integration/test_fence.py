"""A file that changes when its last byte has left: nothing of it is registered any more."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.history import Entry
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call
from tests.integration.harness import LARGE, MIB, Daemon, Home, records, until
from tests.weights import weights

SWITCHES = Switches(part_size=5 * MIB)
SMALL_FILE, LARGE_FILE = "loras/small.safetensors", "checkpoints/large.ckpt"
SIZES = {SMALL_FILE: 3000, LARGE_FILE: LARGE}


class Meddler:
    """Does something once, when a call has taken effect and before its caller is told."""

    def __init__(self, call: Call, action: Callable[[], object]) -> None:
        self._call, self._action, self.done = call, action, False

    def __call__(self, entry: Entry) -> None:
        if entry.call == self._call and not self.done:
            self.done = True
            self._action()


@pytest.mark.parametrize(
    ("rel_path", "last"),
    [
        (SMALL_FILE, Call.PUT_BODY),
        (LARGE_FILE, Call.PUT_PART),
        (LARGE_FILE, Call.COMPLETE),
    ],
)
def test_I02_bytes_that_the_file_no_longer_holds_are_never_registered(
    tmp_path: Path, rel_path: str, last: Call
) -> None:
    path = tmp_path / "home" / "models" / rel_path
    meddler = Meddler(last, lambda: path.write_bytes(weights(bytes(SIZES[rel_path]))))
    with Sandbox(tmp_path / "cloud", switches=SWITCHES, listener=meddler) as cloud:
        home = Home.at(tmp_path / "home", cloud)
        home.sign_in(cloud)
        home.write(rel_path, weights(b"x" * SIZES[rel_path]))
        home.let_age()
        done = home.once()

        assert meddler.done
        assert done.code == 0, done.err
        assert records(cloud) == {f"models/{rel_path}": home.sha256(rel_path)}
        assert [e.ok for e in cloud.history.entries(Call.REGISTER)] == [True]


# -- while a body leaves ---------------------------------------------------------------------------

SLOWLY = "100k"
"""Bytes a second: a body takes half a minute, and a look at its file comes with the end only."""

SLOW_SIZE = 3 * MIB


def delete(path: Path) -> None:
    path.unlink()


def rewrite(path: Path) -> None:
    path.write_bytes(weights(b"y" * (SLOW_SIZE + 1)))


def exchange(path: Path) -> None:
    other = path.with_suffix(".part")
    other.write_bytes(weights(b"z" * SLOW_SIZE))
    other.rename(path)


@pytest.mark.parametrize("change", [delete, rewrite, exchange])
def test_I02_file_that_changes_during_a_single_put_stops_being_sent_within_two_seconds(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    with Sandbox(tmp_path / "cloud", switches=SWITCHES) as cloud:
        home = Home.at(tmp_path / "home", cloud)
        path = home.write(SMALL_FILE, weights(b"x" * SLOW_SIZE))
        home.write("vae/other.safetensors", weights(b"o" * 3000))
        home.env["SYNCD_UPLOAD__BANDWIDTH"] = SLOWLY
        home.let_age()
        with home.daemon() as daemon:
            daemon.started()

            def sending() -> bool:
                running = home.status()["progress"]["running"]
                return any(each["path"] == SMALL_FILE and each["sent"] for each in running)

            until(sending, "a body under way")
            changed_s = time.time()
            change(path)
            (ended, *_) = until(lambda: ends_of(daemon, SMALL_FILE), "the end of the body")
            daemon.stop()

        assert ended["end"] == "superseded"
        assert moment(ended) - changed_s < 2
        assert not cloud.history.entries(Call.REGISTER) or SMALL_FILE not in str(records(cloud))


def ends_of(daemon: Daemon, rel_path: str) -> list[dict[str, Any]]:
    return [each for each in daemon.events("job.ended") if each["rel_path"] == rel_path]


def moment(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()
