"""``syncd`` while it runs: files that come, move, grow and go, and a daemon that is told to stop."""

import signal

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Daemon, Home, records, until
from tests.weights import weights

ONE, TWO = "loras/one.safetensors", "vae/two.pt"
NEW = "loras/new.safetensors"


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
