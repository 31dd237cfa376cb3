"""``syncd file``, ``queue`` and ``history``, and how a person may name a file."""

import json
import os
import re
from pathlib import Path
from typing import Any

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import MIB, Finished, Home, until
from tests.weights import weights

ONE, TWO, BIG = "loras/one.safetensors", "vae/two.pt", "checkpoints/large.ckpt"


def lines(done: Finished) -> dict[str, str]:
    """The facts that ``syncd file`` shows, by name."""
    facts = [line.strip().split("  ", 1) for line in done.out.splitlines() if line[:2] == "  "]
    return {fact[0]: fact[1].strip() for fact in facts if len(fact) == 2}


# -- file ------------------------------------------------------------------------------------------


def test_a_registered_file_is_told_with_its_record_and_its_story(
    home: Home, cloud: Sandbox
) -> None:
    home.once()

    told, shown = home.document("file", ONE), lines(home.run("file", ONE))
    (record,) = [each for each in cloud.records() if each["model_path"] == f"models/{ONE}"]
    status = (home.models / ONE).stat()

    assert (told["file"]["state"], told["on_disk"]) == ("registered", "unchanged")
    assert told["rule"] == "selected: ending .safetensors"
    assert told["file"]["record_id"] == record["id"]
    assert told["file"]["sha256"] == home.sha256(ONE)
    assert told["job"]["storage_key"] == record["storage_key"]
    assert told["fingerprint"]["inode"] == status.st_ino
    assert told["registered_at"] >= told["judged_at"]
    assert [event["to_state"] for event in told["events"]] == ["queued", "leased", "done"]
    assert shown["record"].startswith(f"{record['id']}, registered 20")
    assert shown["sha256"] == home.sha256(ONE)
    assert shown["rule"] == "selected: ending .safetensors"


def test_a_file_that_is_passed_over_is_told_with_the_line_that_did_it(home: Home) -> None:
    (home.models / ".syncdignore").write_text("*.pt\n")
    home.once()

    told, shown = home.document("file", TWO), lines(home.run("file", TWO))

    assert (told["file"]["state"], told["job"], told["events"]) == ("ignored", None, [])
    assert told["rule"] == "ignored: excluded by *.pt (.syncdignore)"
    assert shown["reason"] == "excluded by *.pt (.syncdignore)"


def test_a_file_that_syncd_has_not_met_yet_is_told_by_the_rule_that_takes_it(home: Home) -> None:
    told, shown = home.document("file", ONE), home.run("file", ONE).out

    assert (told["file"], told["on_disk"]) == (None, "new")
    assert told["rule"] == "selected: ending .safetensors"
    assert "not scanned yet" in shown


def test_a_file_that_moved_on_since_is_told_so(home: Home) -> None:
    home.once()
    home.write(ONE, weights(b"changed"))
    (home.models / TWO).unlink()

    assert home.document("file", ONE)["on_disk"] == "changed"
    assert home.document("file", TWO)["on_disk"] == "gone"
    assert lines(home.run("file", TWO))["on disk"] == "gone"


def test_a_running_upload_is_told_with_its_parts(large_home: Home, cloud: Sandbox) -> None:
    large_home.sign_in(cloud)
    cloud.faults.add(Rule(Fault.DELAY, "put_part", part=2, delay_s=20))
    large_home.env["SYNCD_UPLOAD__SHUTDOWN_GRACE_S"] = "0"
    with large_home.daemon() as daemon:
        until(lambda: _parts_done(large_home) == 1, "the first part")
        told, shown = large_home.document("file", BIG), lines(large_home.run("file", BIG))
        queue, screen = large_home.document("queue"), large_home.run("queue").out
        daemon.stop()

    assert (told["file"]["state"], told["file"]["parts"]) == ("uploading", 2)
    assert told["job"]["part_size"] == 5 * MIB
    assert shown["parts"] == "1 of 2 done, 5.0 MiB each"
    assert [file["path"] for file in queue["files"]] == [BIG]
    assert queue["running"] is True
    assert f"{BIG}  part 1 of 2" in screen


def _parts_done(home: Home) -> int:
    done = home.run("file", BIG, "--json")
    file = json.loads(done.out)["file"] if done.code == 0 else None
    return int(file["parts_done"]) if file else 0


def test_history_and_file_answer_for_deleted_and_renamed_files(home: Home, cloud: Sandbox) -> None:
    home.once()
    (home.models / ONE).rename(home.models / "loras/new.safetensors")
    (home.models / TWO).unlink()
    home.write("vae/kept.pt", weights(b"else the tree would be empty"))
    home.let_age()
    home.env |= {"SYNCD_CATALOG__ON_DELETE": "disable", "SYNCD_CATALOG__DELETE_GRACE_S": "0"}
    first, second = home.once(), home.once()
    renamed, gone = (home.document("history", path)["events"] for path in (ONE, TWO))
    told, shown = home.document("file", TWO), home.run("file", TWO)

    assert (first.code, second.code) == (0, 0)
    assert [each["event"] for each in renamed][-2:] in (["gone", "renamed"], ["renamed", "gone"])
    assert "models/loras/new.safetensors" in " ".join(each["reason"] or "" for each in renamed)
    assert [each["event"] for each in gone][-2:] == ["gone", "disabled"]
    assert (told["on_disk"], told["file"]) == ("gone", None)
    assert told["events"] == gone
    assert "the file is no longer on disk" in shown.out


# -- files that still change -----------------------------------------------------------------------


def _settling(home: Home) -> dict[str, dict[str, Any]]:
    """The settling files that ``status`` lists, by path."""
    progress = home.status()["progress"]
    return {} if progress is None else {each["path"]: each for each in progress["settling"]}


def test_settling_files_are_listed_with_the_time_left_or_what_blocks_them(
    home: Home, cloud: Sandbox
) -> None:
    home.once()
    growing, loading = "loras/growing.safetensors", "vae/loading.pt"
    home.write(growing, b"")
    home.write(loading, weights(b"loading"))
    home.write(f"{loading}.aria2", b"")
    home.env |= dict.fromkeys(("SYNCD_SETTLE__QUIET_S", "SYNCD_SETTLE__QUIET_CLOSED_S"), "600")
    with home.daemon() as daemon:
        daemon.started()
        until(lambda: len(_settling(home)) == 2, "both files")
        home.write(growing, b"x" * 3 * MIB)
        home.write(ONE, weights(b"changed"))
        until(lambda: len(_settling(home)) == 3, "the changed file")
        grown = until(lambda: _settling(home)[growing]["size"] and _settling(home), "its growth")
        status, queue, told_queue = (
            home.run("status").out, home.run("queue").out, home.document("queue")
        )  # fmt: skip
        file, told_file = lines(home.run("file", growing)), home.document("file", growing)
        changed, blocked = lines(home.run("file", ONE)), lines(home.run("file", loading))
        settled = home.document("file", TWO)["settling"]
        daemon.stop()
    after, after_file = home.run("status").out, home.document("file", growing)

    assert (grown[growing]["size"], grown[growing]["reason"]) == (3 * MIB, None)
    assert 500 < grown[growing]["seconds_left"] <= 600
    assert grown[loading]["seconds_left"] is None
    assert grown[loading]["reason"] == "a download is in progress: loading.pt.aria2"
    assert "waiting for 3 files to stop changing" in status
    assert re.search(rf"^  {growing}  3.0 MiB  \d{{3}} s left$", status, re.MULTILINE)
    assert "loading.pt.aria2" in status
    assert "empty file" not in status
    assert {each["path"] for each in told_queue["settling"]} == {growing, loading, ONE}
    assert (told_queue["files"], told_queue["settling_files"]) == ([], 3)
    assert re.search(rf"settling +3.0 MiB  {growing} +\d{{3}} s left", queue)
    still = r"still changing; it is checked when it has not changed for another \d{3} s"
    assert re.fullmatch(still, file["state"])
    assert (told_file["file"], told_file["settling"]["size"]) == (None, 3 * MIB)
    assert changed["state"] == "registered"
    assert re.fullmatch(still, changed["on disk"])
    assert blocked["state"] == "still changing: a download is in progress: loading.pt.aria2"
    assert settled is None
    assert "stop changing" not in after
    assert after_file["settling"] is None


# -- naming a file ---------------------------------------------------------------------------------


def test_a_file_may_be_named_in_every_usual_way(home: Home) -> None:
    usual = (ONE, f"models/{ONE}", f"{home.models}/{ONE}", f"{home.models}/vae/../{ONE}")

    assert {home.document("file", given)["path"] for given in usual} == {ONE}


def test_a_misspelt_name_is_answered_with_what_may_be_meant(home: Home) -> None:
    home.once()

    for given, meant in (("loras/onne.safetensors", ONE), ("two.pt", TWO), ("vae/TWO.PT", TWO)):
        done = home.run("file", given)

        assert (done.code, done.out) == (2, "")
        assert done.said.startswith(f"syncd: {given}: no such file or folder in {home.models}.")
        assert f"Did you mean {meant}?" in done.said
    for given, reason in (("/etc/passwd", "no such file or folder"), ("loras", "is a folder")):
        done = home.run("file", given)

        assert done.code == 2
        assert reason in done.said


# -- queue and history -----------------------------------------------------------------------------


def test_history_tells_each_change_of_owner_and_why(home: Home, cloud: Sandbox) -> None:
    home.once()

    told, shown = home.document("history"), home.run("history").out
    of_one = home.document("history", ONE)["events"]
    latest = home.document("history", "--most", "1")["events"]

    assert len(told["events"]) == 6
    assert [event["at"] for event in told["events"]] == sorted(e["at"] for e in told["events"])
    assert [(event["event"], event["reason"]) for event in of_one] == [
        (None, None),
        ("claim", None),
        ("finish", "registered"),
    ]
    assert latest == told["events"][-1:]
    assert len(shown.splitlines()) == 7
    assert re.search(rf"{ONE} +done +finish +registered", shown)


def test_file_names_what_is_not_a_regular_file(home: Home, tmp_path: Path) -> None:
    loras = home.models / "loras"
    os.mkfifo(loras / "pipe.pt")
    (loras / "dangling.pt").symlink_to(tmp_path / "nowhere.pt")

    pipe, dangling = home.run("file", "loras/pipe.pt"), home.run("file", "loras/dangling.pt")

    assert (pipe.code, dangling.code) == (2, 2)
    assert "loras/pipe.pt is a named pipe (FIFO), not a regular file." in pipe.said
    assert f"is a link to {tmp_path}/nowhere.pt, which does not exist" in dangling.said
