"""``syncd diff`` and ``syncd safe``: what they say of the tree, the catalog, and what others did there."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from tests.integration.harness import PROJECT, Home
from tests.visitor import Visitor, good
from tests.weights import weights

ONE, TWO = "loras/one.safetensors", "vae/two.pt"


def document(home: Home, *args: str) -> dict[str, Any]:
    """What a command says with ``--json``, held to its schema."""
    done = home.run(*args, "--json")
    said: dict[str, Any] = json.loads(done.out)
    schema = json.loads((PROJECT / f"docs/schemas/{args[0]}.schema.json").read_text())
    jsonschema.validate(said, schema)
    return said


def record_of(cloud: Sandbox, rel_path: str) -> str:
    (found,) = [r["id"] for r in cloud.records() if r["model_path"] == f"models/{rel_path}"]
    return str(found)


def kinds(home: Home) -> dict[str, int]:
    return {kind: n for kind, n in document(home, "diff", "--all")["by_kind"].items() if n}


# -- diff ------------------------------------------------------------------------------------------


def test_all_seven_kinds_are_told_apart(home: Home, cloud: Sandbox, visitor: Visitor) -> None:
    home.write("loras/elsewhere.pt", weights(b"what stands at another path"))
    home.write("vae/disabled.pt", weights(b"what somebody disabled"))
    home.write("vae/silent.pt", weights(b"of unknown bytes"))
    visitor.upload((home.models / ONE).read_bytes(), f"models/{ONE}")
    visitor.upload(b"other bytes", f"models/{TWO}")
    visitor.upload((home.models / "loras/elsewhere.pt").read_bytes(), "models/loras/there.pt")
    visitor.upload(b"nobody's here", "models/loras/theirs.pt")
    off = visitor.upload((home.models / "vae/disabled.pt").read_bytes(), "models/vae/disabled.pt")
    good(visitor.api.put(f"/models/{off}", json={"model_status": "disabled"}))
    home.write("vae/new.pt", weights(b"only here"))

    told = document(home, "diff", "--all")
    shown = home.run("diff", "--exit-code")

    assert {kind: n for kind, n in told["by_kind"].items() if n} == {
        "equal": 1, "other_bytes": 1, "other_path": 1, "cloud_only": 1, "disabled": 1,
        "local_only": 2,
    }  # fmt: skip
    assert (told["source"], told["drift"], shown.code) == ("catalog", True, 1)
    assert "different content in the catalog" in shown.out
    assert not home.state.exists()

    cloud.switches = replace(cloud.switches, list_omits=("file_hash", "file_size"))
    assert kinds(home)["no_knowledge"] == 2  # those at no path of ours are not asked for


def test_where_the_server_does_not_list_the_memory_is_compared_and_that_is_said(
    home: Home, cloud: Sandbox
) -> None:
    home.once()
    cloud.switches = replace(cloud.switches, listing_off=404)
    home.write("vae/new.pt", weights(b"only here"))

    told = document(home, "diff", "--all")

    assert told["source"] == "memory"
    assert Counter(each["kind"] for each in told["findings"]) == {"equal": 2, "local_only": 1}
    assert "does not list" in home.run("diff").out


# -- safe ------------------------------------------------------------------------------------------


def test_a_machine_whose_models_are_all_registered_is_safe(home: Home) -> None:
    before = document(home, "safe")
    home.once()
    after, said = document(home, "safe"), home.run("safe")

    assert (before["safe"], before["exit_code"], before["bytes_to_send"]) == (False, 1, 5000)
    assert (after["safe"], after["exit_code"], after["records_asked_by"]) == (True, 0, "listing")
    assert (said.code, said.out.count("\n")) == (0, 1)
    assert said.out.startswith("safe: 2 files, 4.9 KiB;")


def test_a_file_that_came_a_moment_ago_is_seen_beside_a_running_syncd(home: Home) -> None:
    home.env["SYNCD_SETTLE__QUIET_CLOSED_S"] = home.env["SYNCD_SETTLE__QUIET_S"] = "3600"
    with home.daemon() as daemon:
        daemon.started()
        home.env["SYNCD_SETTLE__QUIET_CLOSED_S"] = "0"
        home.write("vae/new.pt", weights(b"a moment ago"))
        said = home.run("safe")

    assert said.code == 1
    assert said.out.splitlines()[0].startswith("NOT safe: 3 of 3 files")
    assert "vae/new.pt" in said.out


def test_where_the_server_does_not_list_only_deep_asks_for_each_record(
    home: Home, cloud: Sandbox, visitor: Visitor
) -> None:
    home.once()
    cloud.switches = replace(cloud.switches, listing_off=405)
    good(visitor.api.delete(f"/models/{record_of(cloud, TWO)}"))

    assert document(home, "safe")["records_asked_by"] == "not"
    deep = document(home, "safe", "--deep")
    assert (deep["records_asked_by"], deep["exit_code"]) == ("each", 1)


def test_what_cannot_be_told_is_not_called_safe(home: Home, cloud: Sandbox, tmp_path: Path) -> None:
    home.once()
    good_key = home.env["SYNCD_API__TOKEN"]
    home.env["SYNCD_API__TOKEN"] = "dk-nobody"
    refused = home.run("safe")
    home.env["SYNCD_API__TOKEN"] = good_key
    cloud.faults.add(Rule(Fault.RESET, "list_models", count=None))
    away = home.run("safe")
    home.models.rename(tmp_path / "away")

    assert [refused.code, away.code, home.run("safe").code] == [77, 75, 66]
    assert refused.out.startswith("NOT known to be safe: ")


def test_I32_safe_with_files_at_risk_says_that_the_others_could_not_be_checked(
    home: Home, cloud: Sandbox
) -> None:
    home.once()
    home.write("loras/three.safetensors", weights(b"not in the catalog"))
    cloud.faults.add(Rule(Fault.RESET, "list_models", count=None))

    done = home.run("safe")

    assert done.code == 1
    assert "NOT safe: 1 of 3 files would be lost" in done.out
    assert "; the other files could not be checked: The catalog cannot be read" in done.out


def test_others_deed_is_shown_as_drift_and_not_undone(
    home: Home, cloud: Sandbox, visitor: Visitor
) -> None:
    home.once()
    good(visitor.api.delete(f"/models/{record_of(cloud, TWO)}"))
    again = home.once()
    told = home.file(TWO)

    assert again.code == 1
    assert (told["state"], told["reason"]) == ("drift", "its record was deleted from the catalog")
    assert "syncd retry" in told["advice"]
    (home.models / TWO).touch()
    home.let_age()
    assert home.once().code == 1
    assert home.counts() == {"registered": 1, "drift": 1}
    assert cloud.history.count("register") == 2


def test_a_file_in_drift_is_sent_again_only_where_it_is_named(
    home: Home, cloud: Sandbox, visitor: Visitor
) -> None:
    home.once()
    good(visitor.api.delete(f"/models/{record_of(cloud, TWO)}"))
    home.once()
    everything, unnamed = home.run("retry", "--all"), home.counts()
    named = home.run("retry", TWO)
    done = home.once()

    assert (everything.code, unnamed) == (0, {"registered": 1, "drift": 1})
    assert (named.code, done.code) == (0, 0), named.err + done.err
    assert home.counts() == {"registered": 2}
    assert cloud.history.count("register") == 3


# -- what safe must not overlook -------------------------------------------------------------------


def change(home: Home, sql: str, *values: object) -> None:
    """As if another machine, or another time, had written the store."""
    with closing(sqlite3.connect(home.state / "syncd.db")) as connection, connection:
        connection.execute(sql, values)


def test_the_memory_of_another_cloud_says_nothing_of_this_one(home: Home, tmp_path: Path) -> None:
    home.once()
    with Sandbox(tmp_path / "other", switches=Switches(listing_off=404)) as other:
        home.env |= {"SYNCD_API__BASE_URL": other.base_url, "SYNCD_API__TOKEN": other.device_key}
        ran = [
            home.run(*args)
            for args in (["safe"], ["diff"], ["plan", "--out", str(tmp_path / "plan")], ["--once"])
        ]

    assert [done.code for done in ran] == [78] * 4
    assert all("belongs to the catalog of" in done.said for done in ran)
    assert len({done.said for done in ran}) == 1


@pytest.mark.parametrize("name", ["vae", "vae.pt"], ids=["a folder's name", "a model's name"])
def test_I20_a_linked_folder_whose_disk_is_off_is_not_a_deleted_one(
    name: str, home: Home, cloud: Sandbox, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    (home.models / "vae").rename(disk)
    (disk / "two.pt").rename(disk / "two.safetensors")
    (home.models / "loras" / name).symlink_to(disk)
    home.env |= {"SYNCD_CATALOG__DELETE_GRACE_S": "0", "SYNCD_CATALOG__ON_DELETE": "disable"}
    first = home.once()
    planned = home.run("plan", "--out", str(tmp_path / "plan"))
    disk.rename(tmp_path / "off")
    safe = document(home, "safe")
    pruned, once = home.run("prune", "--yes"), home.once()
    active = {record["model_status"] for record in cloud.records()}
    (tmp_path / "off").rename(disk)

    assert (first.code, planned.code, len(cloud.records()), active) == (0, 0, 2, {"active"})
    assert (safe["exit_code"], pruned.code, once.code) == (1, 1, 1)
    assert [each["path"] for each in safe["unexamined"]] == [f"loras/{name}"]
    assert home.run("safe").code == 0


SILENCES = [(".syncdignore", "/checkpoints"), ("select.exclude", "checkpoints/")]


def silence(home: Home, where: str, pattern: str) -> None:
    if where == "select.exclude":
        home.env["SYNCD_SELECT__EXCLUDE"] = pattern
    else:
        home.write(".syncdignore", f"{pattern}\n".encode())


@pytest.mark.parametrize(("where", "pattern"), SILENCES)
def test_dangling_link_that_a_pattern_excludes_is_silent(
    home: Home, tmp_path: Path, where: str, pattern: str
) -> None:
    (home.models / "checkpoints").symlink_to(tmp_path / "volume")
    loud = home.once()
    silence(home, where, pattern)

    once, safe, planned = home.once(), document(home, "safe"), home.run("plan")

    assert loud.code == 1
    assert "checkpoints" in loud.out
    assert once.code == 0, once.out
    assert (safe["exit_code"], safe["unexamined"]) == (0, [])
    assert "is its disk mounted" not in once.out + once.err + planned.out


def test_I20_dangling_link_that_a_pattern_excludes_still_deletes_no_record(
    home: Home, cloud: Sandbox, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    (home.models / "vae").rename(disk)
    (disk / "two.pt").rename(disk / "two.safetensors")
    (home.models / "vae").symlink_to(disk)
    home.env |= {"SYNCD_CATALOG__DELETE_GRACE_S": "0", "SYNCD_CATALOG__ON_DELETE": "delete"}
    assert home.once().code == 0
    disk.rename(tmp_path / "off")
    silence(home, ".syncdignore", "/vae")
    home.once()
    home.once()

    assert {record["model_status"] for record in cloud.records()} == {"active"}
    assert len(cloud.records()) == 2


def test_a_record_without_an_id_is_looked_for_by_path_and_hash(
    home: Home, cloud: Sandbox, visitor: Visitor
) -> None:
    home.once()
    for table in ("job", "record"):
        change(home, f"UPDATE {table} SET record_id = 'unknown:key' WHERE size = 2000")
    there = document(home, "safe")
    good(visitor.api.delete(f"/models/{record_of(cloud, TWO)}"))
    gone = document(home, "safe")
    cloud.switches = replace(cloud.switches, listing_off=404)
    unasked, deep = document(home, "safe"), document(home, "safe", "--deep")

    assert (there["exit_code"], gone["exit_code"]) == (0, 1)
    assert [each["path"] for each in gone["at_risk"]] == [TWO]
    assert [each["records_not_asked"] for each in (there, unasked, deep)] == [0, 2, 1]
    assert "records without an id: 1" in home.run("safe", "--deep").out


def test_I32_safe_configuration_that_excludes_every_model_is_not_safe(home: Home) -> None:
    home.env["SYNCD_SELECT__EXCLUDE"] = "*"
    told, said = document(home, "safe"), home.run("safe")

    assert (told["safe"], told["exit_code"], said.code) == (False, 1, 1)
    assert (told["files_wanted"], told["skipped"]) == (0, {"files": 2, "bytes": 5000})
    assert said.out.startswith("NOT safe: the rules exclude every model file here: 2 files, ")


@pytest.mark.parametrize(
    ("setting", "value", "near"),
    [("types", "lora", "loras"), ("bundles", "Vae", "vae")],
)
def test_config_check_and_doctor_refuse_a_type_that_no_root_has(
    setting: str, value: str, near: str, home: Home
) -> None:
    home.env[f"SYNCD_SELECT__{setting.upper()}"] = value
    checked, doctor = home.run("config", "check"), home.run("doctor", "--json")

    assert checked.code == 78
    assert f"select.{setting}: no models directory has a folder {value}" in checked.said
    assert f"Did you mean {near}?" in checked.said
    assert doctor.code == 78
    assert f"select.{setting}: no models directory has a folder {value}" in doctor.out


def test_config_check_accepts_types_of_extra_model_paths_and_absent_trees(
    home: Home, tmp_path: Path
) -> None:
    file = home.state.parent / "extra_model_paths.yaml"
    file.write_text(f"other:\n  base_path: {tmp_path}\n  upscale_models: up\n")
    home.env["SYNCD_COMFYUI__EXTRA_MODEL_PATHS"] = str(file)
    home.env["SYNCD_SELECT__TYPES"] = "upscale_models, loras"
    extra = home.run("config", "check")
    home.env["SYNCD_SELECT__TYPES"] = "lora"
    home.models.rename(tmp_path / "away")

    assert extra.code == 0, extra.err
    assert home.run("config", "check").code == 0  # nothing is known of a tree that is not there
