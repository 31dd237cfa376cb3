"""``syncd`` while it runs: files that come, move, grow and go, and a daemon that is told to stop."""

import os
import signal
import time

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Daemon, Home, records, until
from tests.weights import weights

ONE, TWO = "loras/one.safetensors", "vae/two.pt"
NEW = "loras/new.safetensors"
UNCHECKED = "loras/new.ckpt"
"""Holds what nobody can tell from a whole file: standing still is all there is to go by."""


def arrive(home: Home, cloud: Sandbox, *rel_paths: str) -> None:
    """Wait until the catalog holds these files as they are on disk now."""
    wanted = {f"models/{rel_path}": home.sha256(rel_path) for rel_path in rel_paths}
    until(lambda: wanted.items() <= records(cloud).items(), f"{wanted.keys()} in the catalog")


def all_there(home: Home, cloud: Sandbox, daemon: Daemon) -> None:
    """Wait until the daemon has watched its tree and brought what was there into the catalog."""
    daemon.started()
    arrive(home, cloud, ONE, TWO)


# -- files that come -------------------------------------------------------------------------------


def test_files_that_come_while_it_runs_are_registered_however_they_come(
    home: Home, cloud: Sandbox
) -> None:
    beside = home.state.parent
    (beside / "ready.safetensors").write_bytes(weights(b"renamed into place"))
    (beside / "folder/deep").mkdir(parents=True)
    (beside / "folder/a.ckpt").write_bytes(weights(b"moved in with its folder"))
    (beside / "folder/deep/b.ckpt").write_bytes(weights(b"deeper"))

    with home.daemon() as daemon:
        all_there(home, cloud, daemon)
        home.write(NEW, weights(b"copied in"))
        (beside / "ready.safetensors").rename(home.models / "loras/ready.safetensors")
        (beside / "folder").rename(home.models / "checkpoints")
        arrive(home, cloud, NEW, "loras/ready.safetensors")
        arrive(home, cloud, "checkpoints/a.ckpt", "checkpoints/deep/b.ckpt")

        assert len(cloud.records()) == 6
        assert daemon.stop() == 143


def test_a_file_that_keeps_growing_is_not_presigned_before_it_stands_still(
    home: Home, cloud: Sandbox
) -> None:
    home.env |= {"SYNCD_SETTLE__QUIET_S": "2", "SYNCD_SETTLE__QUIET_CLOSED_S": "2"}
    with home.daemon() as daemon:
        all_there(home, cloud, daemon)
        path = home.write(UNCHECKED, b"")
        for _ in range(20):
            with path.open("ab") as file:
                file.write(b"\x01" + os.urandom(999))
            time.sleep(0.2)
        grown_ms = time.time() * 1000
        arrive(home, cloud, UNCHECKED)

    (presigned,) = cloud.history.entries("presign")[2:]
    assert presigned.at_ms >= grown_ms
    assert presigned.size == 20_000


def test_a_file_replaced_while_it_is_sent_ends_with_its_new_bytes_only(
    home: Home, cloud: Sandbox
) -> None:
    cloud.faults.add(Rule(Fault.DELAY, "put_body", contains=NEW, delay_s=5))
    with home.daemon() as daemon:
        all_there(home, cloud, daemon)
        home.write(NEW, weights(b"the first bytes"))
        until(lambda: len(cloud.history.entries("presign")) == 3, "the presign call")
        (home.state.parent / "other").write_bytes(weights(b"other bytes"))
        (home.state.parent / "other").rename(home.models / NEW)
        arrive(home, cloud, NEW)
        until(lambda: home.counts() == {"registered": 3}, "an empty queue")

    assert len([e for e in cloud.history.entries("presign") if NEW in (e.model_path or "")]) == 2
    assert sorted(records(cloud)) == sorted(f"models/{path}" for path in (ONE, TWO, NEW))


# -- stopping --------------------------------------------------------------------------------------


@pytest.mark.cell("F02-part")
def test_a_stop_lets_a_running_put_end_and_gives_the_rest_back(home: Home, cloud: Sandbox) -> None:
    cloud.faults.add(Rule(Fault.DELAY, "put_body", delay_s=2))
    cloud.faults.add(Rule(Fault.DELAY, "presign", contains=TWO, delay_s=2))
    with home.daemon() as daemon:
        until(lambda: not any(rule.count for rule in cloud.faults.rules()), "both requests")
        code = daemon.stop()

    states = home.counts()
    assert code == 143
    assert states == {"registered": 1, "queued": 1}
    assert daemon.events("service.stopped")


def test_I18_stop_past_the_grace_gives_the_running_job_back_untried(
    home: Home, cloud: Sandbox
) -> None:
    home.env["SYNCD_UPLOAD__SHUTDOWN_GRACE_S"] = "0.2"
    # Twice what a stop may take.
    cloud.faults.add(Rule(Fault.DELAY, "put_body", delay_s=60, count=2))
    with home.daemon() as daemon:
        until(lambda: cloud.history.count("presign") == 2, "the presign calls")
        code = daemon.stop(signal.SIGINT)

    files = home.status()["files"]
    assert code == 130
    assert [(file["state"], file["attempt"]) for file in files] == [("queued", 0), ("queued", 0)]


@pytest.mark.cell("F23-watch")
def test_I08_second_daemon_ends_with_75_and_leaves_the_first_alone(
    home: Home, cloud: Sandbox
) -> None:
    with home.daemon() as daemon:
        all_there(home, cloud, daemon)
        second, backfill = home.run(), home.once()

        assert (second.code, backfill.code) == (75, 75)
        assert "Another syncd is using" in second.said
        assert home.status()["running"] is True
        assert daemon.process.poll() is None


# -- a tree that goes away -------------------------------------------------------------------------


def test_a_root_that_goes_away_is_waited_for_and_nothing_is_forgotten(
    home: Home, cloud: Sandbox
) -> None:
    away = home.state.parent / "away"
    with home.daemon() as daemon:
        all_there(home, cloud, daemon)
        home.models.rename(away)
        (hold,) = until(lambda: home.status()["holds"], "the hold")
        gone = home.status()
        away.rename(home.models)
        home.write(NEW, weights(b"new after the return"))
        arrive(home, cloud, NEW)
        until(lambda: not home.status()["holds"], "the hold's end")

        assert hold["kind"] == "root"
        assert os.fspath(home.models) in hold["reason"]
        assert gone["files_by_state"] == {"registered": 2}
        assert home.counts() == {"registered": 3}
        assert cloud.history.count("presign") == 3
        assert daemon.stop() == 143
