"""``syncd plan --out``, ``syncd apply`` and ``syncd prune``: nothing but what was agreed to."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home, calls, records
from tests.visitor import Visitor, good
from tests.weights import weights

ONE, TWO, NEW = "loras/one.safetensors", "vae/two.pt", "vae/renamed.pt"
SENDING = {"presign", "put_body", "put_part", "register"}


def planned(home: Home) -> dict[str, dict[str, Any]]:
    """The lines of a fresh plan, by path; the file stays beside the tree."""
    done = home.run("plan", "--out", str(plan_of(home)))
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in plan_of(home).read_text().splitlines()]
    assert lines[0]["syncd_plan"] == 1
    return {line["path"]: line for line in lines[1:]}


def plan_of(home: Home) -> Path:
    return home.state.parent / "plan.jsonl"


def acts(home: Home) -> dict[str, str]:
    return {path: line["action"] for path, line in planned(home).items()}


def sent(cloud: Sandbox) -> set[str]:
    return SENDING & set(calls(cloud))


def test_a_plan_is_applied_exactly_and_a_line_taken_out_does_not_happen(
    home: Home, cloud: Sandbox
) -> None:
    assert acts(home) == {ONE: "upload", TWO: "upload"}
    assert not home.state.exists()
    kept = [line for line in plan_of(home).read_text().splitlines() if TWO not in line]
    plan_of(home).write_text("\n".join(kept))
    done = home.run("apply", str(plan_of(home)))

    assert (done.code, set(records(cloud))) == (0, {f"models/{ONE}"})
    assert done.out.startswith("1 done (2.9 KiB uploaded), 0 refused")
    assert acts(home) == {ONE: "skip", TWO: "upload"}


def _plan(home: Home) -> list[str]:
    planned(home)
    return plan_of(home).read_text().splitlines()


def test_stale_lines_are_refused_one_by_one(home: Home, cloud: Sandbox) -> None:
    planned(home)
    home.write(ONE, weights(b"changed since"))
    home.let_age()
    done = home.run("apply", str(plan_of(home)))

    assert (done.code, set(records(cloud))) == (1, {f"models/{TWO}"})
    assert f"refused: upload {ONE}: the file changed since the plan was made" in done.out


def test_what_the_catalog_holds_is_adopted_and_a_renamed_file_takes_its_record_along(
    home: Home, cloud: Sandbox, visitor: Visitor
) -> None:
    visitor.upload((home.models / ONE).read_bytes(), f"models/{ONE}")
    (home.state.parent / "away").mkdir()
    (home.models / ONE).rename(home.state.parent / "away/one")
    home.once()
    (home.state.parent / "away/one").rename(home.models / ONE)
    (home.models / TWO).rename(home.models / NEW)
    cloud.history._entries.clear()
    lines = planned(home)
    done = home.run("apply", str(plan_of(home)))

    assert {path: line["action"] for path, line in lines.items()} == {ONE: "adopt", NEW: "rename"}
    assert lines[NEW]["was"] == TWO
    assert (done.code, sent(cloud)) == (0, set())
    assert set(records(cloud)) == {f"models/{ONE}", f"models/{NEW}"}


@pytest.mark.parametrize("gone", ["adopt", "rename"])
def test_what_was_to_need_no_byte_is_refused_where_it_would_need_some(
    gone: str, home: Home, cloud: Sandbox, visitor: Visitor
) -> None:
    if gone == "adopt":
        record = visitor.upload((home.models / TWO).read_bytes(), f"models/{TWO}")
    else:
        home.once()
        (home.models / TWO).rename(home.models / NEW)
    assert gone in acts(home).values()
    if gone == "adopt":
        good(visitor.api.delete(f"/models/{record}"))
    else:
        cloud.switches = replace(cloud.switches, update_off=405)
    before = cloud.history.count("put_body")
    done = home.run("apply", str(plan_of(home)))

    assert done.code == 1
    assert f"refused: {gone} " in done.out
    assert [e.model_path for e in cloud.history.entries("put_body")][before:] in (
        [], [f"models/{ONE}"],
    )  # fmt: skip


def test_what_others_did_away_with_is_sent_again_at_a_persons_word_only(
    home: Home, cloud: Sandbox, visitor: Visitor
) -> None:
    home.once()
    (two,) = [r["id"] for r in cloud.records() if r["model_path"] == f"models/{TWO}"]
    good(visitor.api.put(f"/models/{two}", json={"model_status": "disabled"}))
    held = home.once()
    assert acts(home) == {ONE: "skip", TWO: "upload"}
    done = home.run("apply", str(plan_of(home)))

    assert (held.code, done.code) == (1, 0)
    assert set(records(cloud)) == {f"models/{ONE}", f"models/{TWO}"}
    assert home.run("safe").code == 0
    assert home.once().code == 0


def test_apply_with_lines_left_by_the_cloud_and_lines_refused_ends_with_75(
    home: Home, cloud: Sandbox
) -> None:
    planned(home)
    home.write(ONE, weights(b"changed since"))
    home.let_age()
    throttled = {"Retry-After": "3600"}
    cloud.faults.add(
        Rule(Fault.ANSWER, "presign", count=None, status=429, performed=False, headers=throttled)
    )
    done = home.run("apply", str(plan_of(home)))

    assert done.code == 75, done.out
    assert f"refused: upload {ONE}" in done.out
    assert f"not done: upload {TWO}" in done.out


def test_a_line_of_a_file_that_was_cancelled_since_is_refused(home: Home, cloud: Sandbox) -> None:
    planned(home)
    key, home.env["SYNCD_API__TOKEN"] = home.env["SYNCD_API__TOKEN"], "dk-nobody"
    home.once()
    home.run("cancel", TWO)
    home.env["SYNCD_API__TOKEN"] = key
    done = home.run("apply", str(plan_of(home)))

    assert (done.code, set(records(cloud))) == (1, {f"models/{ONE}"})
    assert f"refused: upload {TWO}: cancelled by syncd cancel" in done.out


def test_a_record_below_a_link_to_nowhere_is_not_taken_back(
    home: Home, cloud: Sandbox, tmp_path: Path
) -> None:
    (home.models / "loras").rename(tmp_path / "disk")
    (home.models / "loras").symlink_to(tmp_path / "disk")
    home.env |= {"SYNCD_CATALOG__DELETE_GRACE_S": "0", "SYNCD_CATALOG__ON_DELETE": "disable"}
    home.once()
    (tmp_path / "disk/one.safetensors").rename(tmp_path / "one.safetensors")
    lines = planned(home)
    (tmp_path / "disk").rename(tmp_path / "off")
    done = home.run("apply", str(plan_of(home)))

    assert lines[ONE]["action"] == "disable"
    assert done.code == 1
    assert f"refused: disable {ONE}: loras: a link to a folder that does not exist" in done.out
    assert len(records(cloud)) == 2


@pytest.mark.parametrize("path", ["vae/\udead.pt", "vae/\0.pt"], ids=["surrogate", "NUL"])
def test_a_path_that_no_file_can_have_makes_no_plan(path: str, home: Home) -> None:
    head, one, _ = _plan(home)
    plan_of(home).write_text(f"{head}\n{json.dumps({**json.loads(one), 'path': path})}")
    done = home.run("apply", str(plan_of(home)))

    assert done.code == 2
    assert "line 2: path is not valid" in done.said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("{}", "not a plan that this version of syncd can apply"),
        ('{"syncd_plan": 1, "base_url": "https://other.example/api/v1"}', "the plan is for"),
        ('HEAD\n{"action": "upload", "reason": "", "root": "/", "path": "a"}', "needs fingerprint"),
        (
            'HEAD\n{"action": "burn", "reason": "", "root": "/", "path": "a"}',
            "action must be one of",
        ),
    ],
)
def test_a_file_that_is_no_plan_for_this_cloud_is_refused_whole(
    text: str, said: str, home: Home, cloud: Sandbox
) -> None:
    head = json.dumps({"syncd_plan": 1, "base_url": cloud.base_url})
    plan_of(home).write_text(text.replace("HEAD", head))
    done = home.run("apply", str(plan_of(home)))

    assert done.code == 2
    assert said in done.said
    assert calls(cloud) == []


def test_prune_disables_then_deletes_what_this_machine_made_and_nothing_else(
    home: Home, cloud: Sandbox, visitor: Visitor
) -> None:
    visitor.upload(b"somebody else's", "models/vae/theirs.pt")
    home.env["SYNCD_CATALOG__DELETE_GRACE_S"] = "0"
    home.once()
    (home.models / TWO).unlink()
    home.once()
    shown = home.run("prune")
    before = records(cloud)
    first = home.run("prune", "--yes")
    status = {r["model_path"]: r["model_status"] for r in cloud.records()}
    second = home.run("prune", "--yes")

    assert (shown.code, first.code, second.code) == (0, 0, 0)
    assert "Nothing was changed." in shown.out
    assert f"models/{TWO}" in before
    assert status == {
        "models/vae/theirs.pt": "active", f"models/{ONE}": "active", f"models/{TWO}": "disabled",
    }  # fmt: skip
    assert set(records(cloud)) == {f"models/{ONE}", "models/vae/theirs.pt"}
    assert len(cloud.records()) == 2
    assert home.run("prune", "--yes").out == "Nothing to prune.\n"


def test_prune_waits_for_the_grace_and_stops_at_the_cap(home: Home, cloud: Sandbox) -> None:
    home.once()
    (home.models / TWO).unlink()
    home.once()
    waiting = home.run("prune", "--yes")
    home.env |= {"SYNCD_CATALOG__DELETE_GRACE_S": "0", "SYNCD_CATALOG__DELETE_MOST": "0"}
    capped = home.run("prune", "--yes")

    assert (waiting.code, capped.code) == (0, 1)
    assert "of catalog.delete_grace_s remain" in waiting.out
    assert "raise catalog.delete_most" in capped.out
    assert len(records(cloud)) == 2


def test_what_is_registered_to_be_disabled_is_so_and_is_adopted_so(
    home: Home, cloud: Sandbox
) -> None:
    home.env["SYNCD_CATALOG__REGISTER_AS"] = "disabled"
    first = home.once()
    status = {record["model_status"] for record in cloud.records()}
    home.state.rename(home.state.parent / "lost")
    again = home.once()

    assert (first.code, again.code, status) == (0, 0, {"disabled"})
    assert len(cloud.records()) == 2
    assert home.run("safe").code == 0
