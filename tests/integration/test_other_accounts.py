"""What another account of the machine learns from the command line."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from syncd.sandbox.server import Sandbox
from tests.accounts import NOBODY
from tests.integration.harness import PROJECT, Daemon, Home, Nursery, until

GROUP = 4242
STRANGER, MEMBER = (NOBODY, ()), (NOBODY, (GROUP,))

ONE, TWO = "loras/one.safetensors", "vae/two.pt"

pytestmark = pytest.mark.needs("root")

READING = [
    ("status",),
    ("status", "--json"),
    ("status", "--watch", "--json"),
    ("health",),
    ("queue",),
    ("file", ONE),
    ("history",),
    ("plan",),
    ("safe",),
]
STEERING = [
    ("pause",),
    ("resume",),
    ("scan",),
    ("limit", "10M"),
    ("retry", "--all"),
    ("bump", ONE),
    ("cancel", ONE),
]


@pytest.fixture(scope="module")
def home(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home that everybody may enter, but for its state directory."""
    with (
        Sandbox(tmp_path_factory.mktemp("cloud")) as cloud,
        # Not below the folders of the tests, which nobody else may enter.
        tempfile.TemporaryDirectory(prefix="syncd-accounts-", dir="/tmp") as folder,
    ):
        home = nursery.home(Path(folder) / "home", cloud)
        for path in (Path(folder), home.models.parent, home.models, *home.models.iterdir()):
            path.chmod(0o755)
        runtime = Path(folder) / "run"
        runtime.mkdir()
        os.chown(runtime, 0, GROUP)
        runtime.chmod(0o2750)  # what is made in it belongs to the group
        home.env["RUNTIME_DIRECTORY"] = os.fspath(runtime)
        yield home


@pytest.fixture(scope="module")
def daemon(home: Home) -> Iterator[Daemon]:
    with home.daemon() as daemon:
        until(lambda: len(daemon.events("job.ended")) == 2, "both files")
        yield daemon


@pytest.mark.parametrize("args", [("status",), ("queue",), ("pause",), ("scan",)], ids=" ".join)
def test_account_without_access_is_told_what_is_denied_and_who_has_it(
    args: tuple[str, ...], home: Home, daemon: Daemon
) -> None:
    done = home.run(*args, account=STRANGER)

    assert (done.code, done.out) == (77, ""), done.err
    assert f"Access denied: the account nobody may not read {home.state}" in done.said
    assert f"{home.state} belongs to root (mode 0700). Run this as root" in done.said


@pytest.mark.parametrize("args", [*READING, *STEERING, ("diff",), ("doctor",)], ids=" ".join)
def test_account_without_access_is_denied_where_the_device_key_is_stored(
    args: tuple[str, ...], home: Home, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(home.env, "SYNCD_API__TOKEN")

    done = home.run(*args, account=STRANGER)

    assert (done.code, done.out) == (77, ""), done.err
    assert f"the account nobody may not read {home.state}. {home.state} belongs to" in done.said
    assert "(mode 0700). Run this as root, or add" in done.said


def test_member_of_the_socket_group_sees_the_same_status(home: Home, daemon: Daemon) -> None:
    ours, theirs = (home.run("status", "--json", account=who) for who in (None, MEMBER))
    document = json.loads(theirs.out)

    schema = json.loads((PROJECT / "docs/schemas/status.schema.json").read_text())
    jsonschema.validate(document, schema)
    assert (theirs.code, document["running"]) == (0, True)
    for name in ("files", "files_by_state", "bytes_by_state", "roots", "holds"):
        assert document[name] == json.loads(ours.out)[name]
    assert "2 registered" in home.run("status", "--all", account=MEMBER).out
    assert home.run("health", account=MEMBER).out.startswith("healthy: ")


def test_member_of_the_socket_group_may_steer(home: Home, daemon: Daemon) -> None:
    paused = home.run("pause", account=MEMBER)
    holds = [hold["kind"] for hold in home.status()["holds"]]
    done = [home.run(*args, account=MEMBER) for args in STEERING[1:]]

    assert (paused.code, holds) == (0, ["paused"])
    # bump and cancel leave files alone that are in the catalog.
    assert [each.code for each in done] == [0, 0, 0, 0, 1, 1], done


def test_member_of_the_socket_group_is_told_what_takes_the_store(
    home: Home, daemon: Daemon
) -> None:
    done = home.run("queue", account=MEMBER)

    assert (done.code, done.out) == (77, ""), done.err
    assert f"may not read {home.state}" in done.said
