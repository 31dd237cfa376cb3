"""A folder below a root that is a file system of its own."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from tests.integration.harness import Finished, Home, records, until
from tests.integration.namespace import Namespace, namespace
from tests.tools import NAMESPACES
from tests.weights import weights

pytestmark = pytest.mark.needs(NAMESPACES)

ONE, TWO = "checkpoints/one.safetensors", "loras/two.safetensors"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "cloud") as cloud:
        yield cloud


@pytest.fixture
def home(tmp_path: Path, cloud: Sandbox) -> Home:
    """Deletes the record of each file that is gone, at once."""
    home = Home.at(tmp_path / "home", cloud)
    home.env |= {"SYNCD_CATALOG__DELETE_GRACE_S": "0", "SYNCD_CATALOG__ON_DELETE": "delete"}
    return home


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """What is mounted at ``checkpoints``."""
    return tmp_path / "disk"


@pytest.fixture
def machine(home: Home, disk: Path) -> Iterator[Namespace]:
    """Has ``ONE`` on a disk of its own and ``TWO`` beside it."""
    noise = random.Random(6)
    disk.mkdir()
    (disk / "one.safetensors").write_bytes(weights(noise.randbytes(2000)))
    home.write(TWO, weights(noise.randbytes(3000)))
    home.let_age()
    with namespace(home) as machine:
        machine.bind(disk, home.models / "checkpoints")
        yield machine


def paths(cloud: Sandbox) -> set[str]:
    return set(records(cloud))


BOTH = {f"models/{ONE}", f"models/{TWO}"}


def require_held(done: Finished, home: Home) -> None:
    assert done.code == 66, done.err
    assert f"{home.models}/checkpoints is on another file system than before" in done.said
    assert "syncd scan --accept" in done.said


@pytest.mark.parametrize("point", ["left empty", "removed"])
def test_I20_unmounted_folder_is_held_and_loses_no_record(
    point: str, machine: Namespace, home: Home, cloud: Sandbox, disk: Path
) -> None:
    first = machine.run("--once")
    machine.unmount(home.models / "checkpoints")
    if point == "removed":
        (home.models / "checkpoints").rmdir()
    held = [machine.run(*args) for args in (["--once"], ["plan"], ["safe"], ["prune", "--yes"])]
    machine.bind(disk, home.models / "checkpoints")
    back = machine.run("safe")

    assert first.code == 0, first.err
    for done in held:
        require_held(done, home)
    assert paths(cloud) == BOTH
    assert back.code == 0, back.err


def test_I20_daemon_holds_while_a_folder_is_unmounted(
    machine: Namespace, home: Home, cloud: Sandbox, disk: Path
) -> None:
    with machine.daemon() as daemon:
        until(lambda: paths(cloud) == BOTH, "both records")
        machine.unmount(home.models / "checkpoints")
        (began,) = until(lambda: daemon.events("hold.started"), "the hold")
        (shown,) = json.loads(machine.run("status", "--json").out)["holds"]
        machine.bind(disk, home.models / "checkpoints")
        until(lambda: daemon.events("hold.ended"), "the end of the hold")
        home.write("loras/new.safetensors", weights(b"n" * 1000))
        until(lambda: len(records(cloud)) == 3, "a file that came after the hold")

    assert (began["kind"], shown["kind"]) == ("root", "root")
    assert f"{home.models}/checkpoints" in shown["reason"]
    assert daemon.events("file.gone") == []
    assert paths(cloud) >= BOTH


def test_I20_another_disk_over_a_folder_with_models_is_held_until_accepted(
    machine: Namespace, home: Home, cloud: Sandbox
) -> None:
    machine.run("--once")
    machine.mount("-t", "tmpfs", "another-disk", home.models / "loras")
    held = machine.run("--once")
    kept = paths(cloud)
    accepted = machine.run("scan", "--accept")
    after = machine.run("--once")

    assert held.code == 66
    assert f"{home.models}/loras is on another file system than before" in held.said
    assert "another-disk" in held.said
    assert kept == BOTH
    assert accepted.code == 0, accepted.err
    assert after.code == 0, after.err
    assert paths(cloud) == {f"models/{ONE}"}


def test_I20_emptied_disk_is_held_until_accepted_by_a_running_daemon(
    machine: Namespace, home: Home, cloud: Sandbox, disk: Path
) -> None:
    machine.run("--once")
    (disk / "one.safetensors").rename(disk.parent / "away")
    (disk / "empty.safetensors").touch()
    with machine.daemon() as daemon:
        (began,) = until(lambda: daemon.events("hold.started"), "the hold")
        gone = daemon.events("file.gone")
        accepted = machine.run("scan", "--accept")
        until(lambda: daemon.events("hold.ended"), "the end of the hold")

    assert f"{home.models}/checkpoints contains no model, although it did before" in began["reason"]
    assert gone == []
    assert accepted.code == 0, accepted.err
    assert [event["path"] for event in daemon.events("file.gone")] == [ONE]


def test_I20_linked_folder_whose_disk_is_unmounted_is_held(
    machine: Namespace, home: Home, cloud: Sandbox, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    machine.bind(tmp_path / "second disk", volume)
    (tmp_path / "second disk/three.safetensors").write_bytes((home.models / TWO).read_bytes())
    (home.models / "vae").symlink_to(volume)
    first = machine.run("--once")
    machine.unmount(volume)
    held = machine.run("--once")

    assert first.code == 0, first.err
    assert held.code == 66
    assert f"{home.models}/vae is on another file system than before" in held.said
