"""A file that changes when its last byte has left: nothing of it is registered any more."""

from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.model import Call
from syncd.sandbox.history import Entry
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from tests.integration.harness import LARGE, MIB, Home, records

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
    meddler = Meddler(last, lambda: path.write_bytes(bytes(SIZES[rel_path])))
    with Sandbox(tmp_path / "cloud", switches=SWITCHES, listener=meddler) as cloud:
        home = Home.at(tmp_path / "home", cloud)
        home.sign_in(cloud)
        home.write(rel_path, b"x" * SIZES[rel_path])
        home.let_age()
        done = home.once()

        assert meddler.done
        assert done.code == 0, done.err
        assert records(cloud) == {f"models/{rel_path}": home.sha256(rel_path)}
        assert [e.ok for e in cloud.history.entries(Call.REGISTER)] == [True]
