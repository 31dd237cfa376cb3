"""SIGHUP: what a running ``syncd`` takes over from its configuration, and what it names instead."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.server import Sandbox
from tests.integration.harness import Daemon, Home, records, until
from tests.weights import weights

ONE, TWO = "loras/one.safetensors", "vae/two.pt"
NEW = "loras/new.safetensors"
ODD = "loras/model (1).safetensors"


def configure(home: Home, toml: str) -> None:
    """From now on this is the home's configuration file."""
    folder = home.state.parent / ".config" / "syncd"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(toml)


def reload(
    home: Home, daemon: Daemon, toml: str, answer: str = "config.reloaded"
) -> dict[str, Any]:
    """Change the file, send SIGHUP, and wait for the log's *answer*."""
    configure(home, toml)
    before = len(daemon.events(answer))
    daemon.process.send_signal(signal.SIGHUP)
    return until(lambda: daemon.events(answer)[before:], answer)[0]


def arrive(home: Home, cloud: Sandbox, *rel_paths: str) -> None:
    wanted = {f"models/{rel_path}" for rel_path in rel_paths}
    until(lambda: wanted <= records(cloud).keys(), f"{wanted} in the catalog")


def test_a_new_limit_counts_for_the_body_that_is_under_way(home: Home, cloud: Sandbox) -> None:
    configure(home, "[upload]\nbandwidth = '64 KiB/s'\n")
    home.write(NEW, weights(os.urandom(3_000_000)))
    with home.daemon() as daemon:
        arrive(home, cloud, ONE, TWO)
        until(lambda: len(cloud.history.entries("presign")) == 3, "the presign call")
        taken = reload(home, daemon, "")
        arrive(home, cloud, NEW)  # at the old limit it would take 45 s

    assert taken["changed"] == ["upload.bandwidth"]
    assert cloud.history.count("put_body") == 3


def test_new_rules_and_windows_judge_the_files_that_are_there(home: Home, cloud: Sandbox) -> None:
    home.write(ODD, weights(b"odd"))
    home.env = {key: value for key, value in home.env.items() if "SETTLE" not in key}
    windows = "[settle]\nquiet_s = {0}\nquiet_closed_s = {0}\nquiet_network_s = {0}\n"
    with home.daemon() as daemon:
        daemon.started()
        reload(home, daemon, windows.format(0.2) + "[select]\nexclude = ['/vae/']\n")
        arrive(home, cloud, ONE)
        assert home.file(TWO)["state"] == "ignored"
        assert home.file(ODD)["state"] == "refused"

        mapped = f"[naming.map]\n'{ODD}' = 'loras/odd.safetensors'\n"
        taken = reload(home, daemon, windows.format(0.2) + mapped)
        arrive(home, cloud, TWO, "loras/odd.safetensors")

    assert taken["changed"] == ["naming.map", "select.exclude"]
    assert "config.reload_needs_restart" not in {event["event"] for event in daemon.events()}


def test_a_new_key_ends_the_hold_that_the_old_one_caused(
    home: Home, cloud: Sandbox, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("dk-nobody")
    new.write_text(home.env.pop("SYNCD_API__TOKEN"))
    for file in (old, new):
        file.chmod(0o600)
    configure(home, f"[api]\ntoken_file = '{old}'\n")
    with home.daemon() as daemon:
        until(lambda: daemon.events("hold.started"), "the hold")
        began_s = time.monotonic()
        taken = reload(home, daemon, f"[api]\ntoken_file = '{new}'\n")
        arrive(home, cloud, ONE, TWO)

        assert time.monotonic() - began_s < 50  # by itself it would look after a minute
        assert taken["changed"] == ["api.token_file"]
        assert home.status()["holds"] == []


def test_what_needs_a_new_start_is_named_and_keeps_its_value(home: Home, cloud: Sandbox) -> None:
    with home.daemon() as daemon:
        arrive(home, cloud, ONE, TWO)
        toml = "[scan]\ninterval_s = 60\n[upload]\nbandwidth = '1 MiB/s'\n[catalog]\ndelete_most = 60\n"
        taken = reload(home, daemon, toml)
        (named,) = until(lambda: daemon.events("config.reload_needs_restart"), "the names")
        again = reload(home, daemon, toml)

    assert taken["changed"] == ["upload.bandwidth"]
    assert named["keys"] == ["scan.interval_s", "catalog.delete_most"]
    assert again["changed"] == []


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("[select]\nexclude = ['/loras/']\n[upload]\nfils = 3\n", ":4: upload.fils: no such sett"),
        ("[select]\nexclude = ['/loras/']\n[api]\ntoken = 'sk-123456'\n", "an sk- key runs"),
    ],
    ids=["setting", "token"],
)
def test_a_broken_configuration_is_refused_as_a_whole(
    home: Home, cloud: Sandbox, toml: str, reason: str
) -> None:
    key = home.env.pop("SYNCD_API__TOKEN")
    configure(home, f"[api]\ntoken = '{key}'\n")
    with home.daemon() as daemon:
        arrive(home, cloud, ONE, TWO)
        refused = reload(home, daemon, toml, "config.reload_refused")
        home.write(NEW, weights(b"taken by the old rules"))
        arrive(home, cloud, NEW)

        assert reason in refused["reason"]
        assert key not in daemon.log.read_text()
        assert daemon.events("config.reloaded") == []
