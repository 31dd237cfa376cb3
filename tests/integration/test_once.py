"""``syncd --once``: what becomes of a tree, against a cloud that works and one that does not."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import MultipartPaths, Switches, Unique
from tests.integration.harness import CAP, LARGE, MIB, Home, Nursery, calls, records
from tests.visitor import Visitor
from tests.weights import weights

ONE, TWO, BIG = "loras/one.safetensors", "vae/two.pt", "checkpoints/large.ckpt"


def expected(home: Home, *rel_paths: str) -> dict[str, str]:
    """What the catalog must hold: model_path -> SHA-256 of the file as it is on disk."""
    return {f"models/{rel_path}": home.sha256(rel_path) for rel_path in rel_paths}


def count(cloud: Sandbox, call: str, **facts: Any) -> int:
    """How often *call* was made with these facts."""
    return sum(
        all(getattr(entry, name) == value for name, value in facts.items())
        for entry in cloud.history.entries(call)
    )


# -- the tree --------------------------------------------------------------------------------------


def test_a_new_tree_is_registered_under_its_own_paths_types_and_names(
    home: Home, cloud: Sandbox
) -> None:
    done = home.once()

    assert done.code == 0
    assert records(cloud) == expected(home, ONE, TWO)
    told = ("model_path", "model_type", "display_name", "file_size", "model_status")
    assert sorted([record[name] for name in told] for record in cloud.records()) == [
        ["models/loras/one.safetensors", "loras", "one", 3000, "active"],
        ["models/vae/two.pt", "vae", "two", 2000, "active"],
    ]


def test_a_second_run_looks_into_the_catalog_and_sends_no_byte(home: Home, cloud: Sandbox) -> None:
    home.once()
    before = len(calls(cloud))

    again = home.once()

    assert again.code == 0
    assert calls(cloud)[before:] == ["list_models"]
    assert "0 B sent" in again.out


def test_a_single_put_carries_the_upload_headers_and_no_other_credential(
    home: Home, cloud: Sandbox
) -> None:
    home.once()

    puts = cloud.history.entries("put_body")
    assert len(puts) == 2
    assert {put.header_names for put in puts} == {("content-length", "host", "if-none-match")}


def test_what_is_no_model_is_passed_over_with_the_reason(home: Home, cloud: Sandbox) -> None:
    home.write("loras/put_loras_here", b"")
    home.write("loras/one.preview.png", b"png")
    home.write("loras/two.preview.png", b"png")
    home.write("checkpoints/half.safetensors.part", b"half")
    home.write("checkpoints/empty.safetensors", b"")
    home.write("stray.safetensors", b"no type folder")
    home.write("loras/.hidden/x.safetensors", b"hidden")

    done = home.once()

    assert done.code == 0
    assert records(cloud) == expected(home, ONE, TWO)
    skipped = done.out[done.out.index("Skipped") :]
    for reason in (
        r"2 +not a model ending: \.png +loras/one\.preview\.png",
        r"1 +placeholder +loras/put_loras_here",
        r"1 +name of an unfinished download +checkpoints/half\.safetensors\.part",
        r"1 +empty file +checkpoints/empty\.safetensors",
        r"1 +not in a type folder +stray\.safetensors",
    ):
        assert re.search(reason, skipped), (reason, skipped)


def test_bytes_that_the_catalog_holds_at_that_path_are_adopted(home: Home, cloud: Sandbox) -> None:
    home.once()
    shutil.rmtree(home.state)
    before = cloud.history.count("put_body", "presign", "register")

    again = home.once()

    assert again.code == 0
    assert cloud.history.count("put_body", "presign", "register") == before
    assert "2 adopted" in again.out
    assert home.file(ONE)["adopted"] is True


def test_a_renamed_file_is_found_under_its_new_path_and_a_deleted_one_stays(
    home: Home, cloud: Sandbox
) -> None:
    home.once()
    was = expected(home, ONE, TWO)
    (home.models / ONE).rename(home.models / "loras/renamed.safetensors")
    (home.models / TWO).unlink()

    again = home.once()

    assert again.code == 0
    moved = expected(home, "loras/renamed.safetensors")
    assert records(cloud) == {path: was[path] for path in was if path.endswith(TWO)} | moved
    assert {file["path"] for file in home.status()["files"]} == {"loras/renamed.safetensors"}
    assert "delete_model" not in calls(cloud)


# -- large files -----------------------------------------------------------------------------------


def test_a_file_above_the_cap_goes_in_parts_with_a_session(
    large_home: Home, cloud: Sandbox
) -> None:
    large_home.sign_in(cloud)

    done = large_home.once()

    assert done.code == 0
    assert records(cloud) == expected(large_home, ONE, TWO, BIG)
    parts = cloud.history.entries("put_part")
    assert sorted((part.part, part.size) for part in parts) == [(1, 5 * MIB), (2, LARGE - 5 * MIB)]
    assert cloud.open_uploads() == ()


def test_a_file_above_the_cap_waits_for_a_session_and_the_rest_goes_on(
    large_home: Home, cloud: Sandbox
) -> None:
    done = large_home.once()
    waiting = large_home.file(BIG)
    large_home.sign_in(cloud)
    signed_in = large_home.once()

    assert done.code == 77
    assert waiting["state"] == "needs_sign_in"
    assert f"{LARGE} bytes are above the {CAP}" in waiting["reason"]
    assert "syncd login --large-files" in waiting["advice"]
    assert BIG in done.out
    assert "needs_sign_in" in done.out
    assert signed_in.code == 0
    assert records(cloud) == expected(large_home, ONE, TWO, BIG)
    assert cloud.history.count("put_body") == 2


def test_a_server_without_multipart_calls_leaves_large_files_with_a_reason_of_its_own(
    large_home: Home, cloud: Sandbox
) -> None:
    cloud.switches = replace(cloud.switches, multipart_off=404)
    large_home.sign_in(cloud)

    done = large_home.once()

    left = large_home.file(BIG)
    assert done.code == 77
    assert records(cloud) == expected(large_home, ONE, TWO)
    assert (left["state"], cloud.history.count("initiate")) == ("needs_sign_in", 1)
    assert "this server has no multipart calls" in left["reason"]
    assert "[api.multipart]" in left["advice"]


def test_multipart_paths_are_taken_from_the_configuration(nursery: Nursery, tmp_path: Path) -> None:
    paths = MultipartPaths(sign_part="/mp/sign", complete="/mp/done", abort="/mp/drop")
    switches = Switches(part_size=5 * MIB, multipart_paths=paths)
    with Sandbox(tmp_path / "cloud", switches=switches) as cloud:
        home = nursery.home(tmp_path / "home", cloud, large=True)
        home.sign_in(cloud)
        home.env |= {
            "SYNCD_API__MULTIPART__SIGN_PART_PATH": "/mp/sign",
            "SYNCD_API__MULTIPART__COMPLETE_PATH": "/mp/done",
            "SYNCD_API__MULTIPART__ABORT_PATH": "/mp/drop",
        }

        done = home.once()

        assert done.code == 0
        assert records(cloud) == expected(home, ONE, TWO, BIG)


# -- files that stay behind -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [
        {"unique_paths": Unique.EXACT},
        {"unique_paths": Unique.EXACT, "listing_off": 404},
    ],
    ids=str,
)
def test_a_path_that_other_bytes_have_taken_fails_that_file_only(
    home: Home, cloud: Sandbox, visitor: Visitor, switches: dict[str, Any]
) -> None:
    visitor.upload(b"somebody else's", f"models/{ONE}")
    cloud.switches = replace(cloud.switches, **switches)

    done = home.once()

    left = home.file(ONE)
    assert (done.code, left["state"]) == (1, "failed")
    assert f"models/{ONE}" in left["reason"]
    assert "new name" in left["advice"]
    assert home.file(TWO)["state"] == "registered"
    assert len(cloud.records()) == 2


def test_a_changed_file_whose_storage_key_repeats_is_not_sent_and_holds_up_nobody(
    home: Home, cloud: Sandbox
) -> None:
    cloud.switches = replace(cloud.switches, fresh_keys=False)
    home.once()
    before = records(cloud)
    home.write(ONE, weights(b"other bytes under the same key"))
    home.write("vae/three.pt", weights(b"a third file"))

    done = home.once()

    left = home.file(ONE)
    assert (done.code, left["state"]) == (1, "failed")
    assert "storage key of other bytes" in left["reason"]
    assert records(cloud) == before | expected(home, "vae/three.pt")


# -- exit codes ------------------------------------------------------------------------------------


def test_once_ends_with_75_while_a_download_is_unfinished(home: Home) -> None:
    home.env["SYNCD_SETTLE__ONCE_WAIT_S"] = "11"
    home.write("loras/late.safetensors", weights(b"the first half"))
    home.write("loras/late.safetensors.aria2", b"aria2 is still at work")

    assert home.once().code == 75


def test_once_paused_with_everything_in_the_catalog_ends_with_0(home: Home) -> None:
    assert home.once().code == 0
    home.run("pause")

    assert home.once().code == 0
