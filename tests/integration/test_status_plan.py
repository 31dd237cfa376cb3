"""``syncd status`` and ``syncd plan``: what they say in each state of things, and what they leave alone."""

import os
import re
from dataclasses import replace

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Unique
from tests.integration.harness import CAP, LARGE, Home
from tests.visitor import Visitor
from tests.weights import HEADER, weights, write_safetensors

ONE, TWO, BIG = "loras/one.safetensors", "vae/two.pt", "checkpoints/large.ckpt"
REFUSED = "loras/ink (1).safetensors"


def actions(home: Home) -> dict[str, str]:
    """What ``plan`` would do with each file."""
    return {file["path"]: file["action"] for file in home.plan()["files"]}


def states(home: Home) -> dict[str, str]:
    """Where ``status`` says that each file stands."""
    return {file["path"]: file["state"] for file in home.status()["files"]}


# -- plan ------------------------------------------------------------------------------------------


def test_a_plan_sends_nothing_and_writes_nothing(large_home: Home, cloud: Sandbox) -> None:
    plan = large_home.plan()
    shown = large_home.run("plan")

    assert plan["bytes_to_send"] == 5000
    assert "at most 4.9 KiB to upload" in shown.out
    assert [entry.call for entry in cloud.history.entries()] == ["agents", "agents"]
    assert not large_home.state.exists()


def test_a_plan_tells_how_many_agents_would_pull_it(home: Home, cloud: Sandbox) -> None:
    cloud.switches = replace(cloud.switches, agents=3)
    told, shown = home.plan(), home.run("plan")
    cloud.switches = replace(cloud.switches, agents_off=404)

    assert (told["agents"], home.plan()["agents"]) == (3, None)
    assert "3 connected agents download them, 14.6 KiB in total" in shown.out


def test_what_is_planned_comes_true(large_home: Home, cloud: Sandbox) -> None:
    large_home.write(REFUSED, b"refused")
    large_home.write("vae/TWO.pt", weights(b"a rival"))
    large_home.write("vae/notes.txt", b"ignored")

    planned = actions(large_home)
    large_home.once()
    became = states(large_home)
    planned_next = actions(large_home)

    assert planned == {
        ONE: "upload",
        TWO: "conflict",
        "vae/TWO.pt": "conflict",
        BIG: "needs_sign_in",
        REFUSED: "refused",
        "vae/notes.txt": "ignored",
    }
    assert became == planned | {ONE: "registered"}
    assert planned_next == became
    assert len(cloud.records()) == 1


def test_a_plan_tells_each_file_apart_by_what_is_known_of_it(home: Home, cloud: Sandbox) -> None:
    home.once()
    home.write(ONE, weights(b"changed"))
    home.write("vae/new.pt", weights(b"new"))

    whys = {file["path"]: (file["action"], file["reason"]) for file in home.plan()["files"]}

    assert whys == {
        ONE: ("upload", "changed or unfinished, in one request"),
        TWO: ("registered", "in the catalog and unchanged"),
        "vae/new.pt": ("upload", "new, in one request"),
    }


@pytest.mark.parametrize("emptied", [False, True])
def test_a_plan_for_a_root_that_is_not_there_judges_nothing(home: Home, emptied: bool) -> None:
    home.once()
    home.models.rename(home.state.parent / "away")
    if emptied:
        home.models.mkdir()

    done = home.run("plan", "--json")

    assert (done.code, done.out) == (66, "")
    assert os.fspath(home.models) in done.said


# -- status ----------------------------------------------------------------------------------------


def test_before_anything_there_is_nothing_to_say_and_nothing_is_written(home: Home) -> None:
    status = home.status()
    shown = home.run("status")

    assert (status["files"], status["roots"], status["running"]) == ([], [], False)
    assert "No files have been scanned yet" in shown.out
    assert not home.state.exists()


def test_each_state_is_told_with_why_and_what_to_do(
    large_home: Home, cloud: Sandbox, visitor: Visitor
) -> None:
    visitor.upload(b"somebody else's", f"models/{ONE}")
    cloud.switches = replace(cloud.switches, unique_paths=Unique.EXACT)
    large_home.write(REFUSED, b"refused")
    large_home.write("vae/pair.pt", weights(b"a rival"))
    large_home.write("vae/PAIR.pt", weights(b"another"))
    large_home.write("vae/notes.txt", b"ignored")
    large_home.once()

    shown = large_home.run("status").out

    assert large_home.counts() == {
        "failed": 1,
        "registered": 1,
        "needs_sign_in": 1,
        "refused": 1,
        "conflict": 2,
        "ignored": 1,
    }
    for path, said in {
        ONE: "Give the changed file a new name",
        BIG: f"{LARGE} bytes are above the {CAP} that a device key may send",
        REFUSED: "its characters ( )",
        "vae/pair.pt": "vae/PAIR.pt would get the same place",
    }.items():
        (line,) = [line for line in shown.splitlines() if line.startswith(path)]
        assert said in line
    assert "syncd is not running" in shown


def test_I21_status_shows_a_hold_with_reason_advice_and_who_is_needed(
    home: Home, cloud: Sandbox
) -> None:
    cloud.switches = replace(cloud.switches, role="viewer")
    home.once()

    (hold,) = home.status()["holds"]
    shown = home.run("status").out

    assert (hold["kind"], hold["needs_operator"]) == ("operator", True)
    assert "role viewer may not manage models" in hold["reason"]
    assert hold["advice"] is not None
    assert hold["advice"] in shown


def test_files_in_the_catalog_are_listed_on_request(home: Home, cloud: Sandbox) -> None:
    home.once()

    short, long = home.run("status"), home.run("status", "--all")

    assert f"models/{ONE}" not in short.out
    for record in cloud.records():
        digest = record["file_hash"].removeprefix("sha256:")[:12]
        assert re.search(rf"^{record['model_path']} .* {digest} +uploaded", long.out, re.MULTILINE)


def test_I17_status_lists_twenty_of_the_files_on_their_way(home: Home) -> None:
    home.once()
    home.run("pause")
    for number in range(30):
        home.write(f"checkpoints/{number:02}.safetensors", weights(bytes([number]) * 100))
    home.write(REFUSED, weights(b"r" * 100))
    home.let_age()
    told = home.once().out
    some, everything = home.run("status").out, home.run("status", "--all").out

    for text in (told, some):
        assert [f"checkpoints/{number:02}" in text for number in range(30)] == [True] * 20 + [
            False
        ] * 10
        assert REFUSED in text
        assert "… and 10 more to upload: syncd queue" in text
    assert all(f"checkpoints/{number:02}" in everything for number in range(30))
    assert ONE in everything


def test_a_plan_says_of_a_large_file_with_holes_what_a_run_says(home: Home) -> None:
    path = write_safetensors(home.models / "vae/holes.safetensors", LARGE)
    os.truncate(path, HEADER)
    os.truncate(path, LARGE)

    planned = actions(home)["vae/holes.safetensors"]
    home.once()

    assert (planned, home.file("vae/holes.safetensors")["state"]) == ("incomplete", "incomplete")
