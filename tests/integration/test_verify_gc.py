"""``syncd verify`` reads what was registered again; ``syncd gc`` cleans up after interrupted work."""

import os
from pathlib import Path

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home, calls, deeds, records, until
from tests.weights import weights

ONE, TWO, BIG = "loras/one.safetensors", "vae/two.pt", "checkpoints/large.ckpt"


def rot(path: Path) -> None:
    """Change one byte and put the times back, as a failing disk would."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# -- verify ----------------------------------------------------------------------------------------


def test_files_that_are_as_registered_are_found_so(home: Home, cloud: Sandbox) -> None:
    home.once()
    asked = len(calls(cloud))

    told = home.document("verify")

    assert told["files_by_state"] == {"same": 2}
    assert told["bytes_read"] == 5000
    assert {file["sha256_now"] for file in told["files"]} == set(records(cloud).values())
    assert home.run("verify").out == "2 same; 4.9 KiB read\n"
    assert len(calls(cloud)) == asked


def test_a_file_that_differs_is_named_and_the_exit_code_says_so(home: Home) -> None:
    home.once()
    registered = home.sha256(ONE)
    rot(home.models / ONE)
    home.write(TWO, weights(b"another version"))

    told, shown = home.document("verify", code=1), home.run("verify").out

    by_path = {file["path"]: file for file in told["files"]}
    assert by_path[ONE]["state"] == by_path[TWO]["state"] == "differs"
    assert (by_path[ONE]["sha256"], by_path[ONE]["sha256_now"]) == (registered, home.sha256(ONE))
    assert "its content changed but its size and date did not" in by_path[ONE]["reason"]
    assert "changed since" in by_path[TWO]["reason"]
    assert f"differs  {ONE}" in shown
    assert by_path[ONE]["record_id"] in shown


def test_a_tree_that_is_not_there_is_not_judged(home: Home) -> None:
    home.once()
    home.models.rename(home.models.parent / "away")
    home.models.mkdir()

    emptied = home.run("verify", "--json")
    home.models.rmdir()
    missing = home.run("verify", "--json")

    assert (emptied.code, emptied.out) == (missing.code, missing.out) == (66, "")
    assert "is its disk mounted?" in emptied.said


# -- gc --------------------------------------------------------------------------------------------


def interrupted(home: Home, cloud: Sandbox) -> None:
    """Leave an upload of two parts behind that nobody wants: its file is another one by now."""
    home.sign_in(cloud)
    cloud.faults.add(
        Rule(Fault.DELAY, "put_part", part=2, delay_s=20),
        Rule(Fault.ANSWER, call="abort", status=503, count=None),
    )
    with home.daemon() as daemon:
        until(lambda: home.file(BIG)["parts_done"] == 1 if daemon.events("job.claimed") else 0, "")
        daemon.process.kill()
        daemon.process.wait()
    home.write(BIG, weights(b"small by now"))
    home.once()
    cloud.faults.clear()


def test_an_upload_that_nobody_wants_is_ended_once_the_cloud_lets_us(
    large_home: Home, cloud: Sandbox
) -> None:
    interrupted(large_home, cloud)
    aborts = calls(cloud).count("abort")
    cloud.faults.add(Rule(Fault.ANSWER, call="me", status=401, count=None))
    turned_away = large_home.document("gc", code=77)
    cloud.faults.clear()

    told, again = large_home.document("gc"), large_home.document("gc")

    assert turned_away["uploads"]["left"] == 1
    assert "401" in turned_away["why_left"]
    assert told["uploads"] == {"aborted": 1, "gone": 0, "left": 0, "abandoned": 0}
    assert calls(cloud).count("abort") == aborts + 1
    assert again["uploads"]["aborted"] == 0


def test_what_is_long_past_is_forgotten_and_what_is_known_stays(home: Home, cloud: Sandbox) -> None:
    home.once()
    home.write(ONE, weights(b"second version"))
    (home.models / TWO).unlink()
    home.let_age()
    home.once()
    before = home.status()["files"]

    young, old = home.document("gc"), home.document("gc", "--days", "0")
    asked = deeds(cloud)
    home.once()

    assert (young["jobs_dropped"], young["events_dropped"]) == (0, 0)
    # Two jobs stay: the file's latest, and the one with the newest event, each with its newest event.
    assert (old["jobs_dropped"], old["events_dropped"]) == (1, 5)
    assert home.status()["files"] == before
    assert len(home.document("history")["events"]) == 2
    assert deeds(cloud) == asked


def test_a_running_syncd_cleans_up_itself(home: Home) -> None:
    with home.daemon() as daemon:
        daemon.started()
        done = home.run("gc")
        daemon.stop()

    assert (done.code, done.out) == (75, "")
    assert "A running syncd aborts unneeded uploads itself" in done.said
