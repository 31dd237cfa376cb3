"""``syncd --once``: what becomes of a tree, against a cloud that works and one that does not."""

import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.faults import Fault, Rule
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


def test_a_file_with_new_bytes_becomes_a_new_record(home: Home, cloud: Sandbox) -> None:
    home.once()
    old = home.sha256(ONE)
    home.write(ONE, weights(b"other bytes than before"))

    again = home.once()

    assert again.code == 0
    hashes = Counter(record["file_hash"] for record in cloud.records())
    assert hashes.keys() == {f"sha256:{h}" for h in (old, home.sha256(ONE), home.sha256(TWO))}
    assert home.file(ONE)["sha256"] == home.sha256(ONE)


def test_a_touched_file_is_read_again_and_not_sent_again(home: Home, cloud: Sandbox) -> None:
    home.once()
    before = cloud.history.count("put_body", "presign", "register")
    os.utime(home.models / ONE)

    again = home.once()

    assert again.code == 0
    assert cloud.history.count("put_body", "presign", "register") == before
    assert home.counts() == {"registered": 2}


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


def test_a_higher_limit_frees_a_file_that_waited_for_a_session(
    large_home: Home, cloud: Sandbox
) -> None:
    large_home.once()
    large_home.env["SYNCD_API__SINGLE_PUT_LIMIT"] = str(2 * LARGE)

    done = large_home.once()

    assert done.code == 0
    assert records(cloud) == expected(large_home, ONE, TWO, BIG)


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


def test_each_file_that_stays_behind_is_named_with_its_reason(
    large_home: Home, cloud: Sandbox
) -> None:
    large_home.write("loras/ink (1).safetensors", b"a name that the server refuses")
    large_home.write("vae/TWO.pt", b"the same name but for its case")

    done = large_home.once()

    assert done.code == 77
    assert records(cloud) == expected(large_home, ONE)
    left = done.out[done.out.index("Not in the catalog") :]
    for line in (
        rf"{BIG} +6\.0 MiB +needs_sign_in +{LARGE} bytes are above the {CAP}",
        r"loras/ink \(1\)\.safetensors +30 B +refused +.*its characters \( \)",
        r"vae/TWO\.pt +30 B +conflict +vae/two\.pt would get the same place",
        r"vae/two\.pt +2\.0 KiB +conflict +vae/TWO\.pt would get the same place",
    ):
        assert re.search(line, left), (line, left)


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


# -- a cloud that does not work ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trouble:
    """
    Something that happens once to the only file of a tree, and what it may cost.

    ``costs`` are calls of a kind; ``large`` takes a file that goes in parts, with a session.
    ``leaves`` counts uploads that stay open since nobody was told of them.
    """

    name: str
    faults: tuple[Rule, ...] = ()
    switches: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, int] = field(default_factory=dict)
    large: bool = False
    leaves: int = 0


def lost(call: str, **facts: Any) -> Rule:
    """The call takes effect and its answer never comes."""
    return Rule(Fault.LOST_ANSWER, call, **facts)


def refused(call: str, status: int, **facts: Any) -> Rule:
    """The call does nothing but answer with *status*."""
    return Rule(Fault.ANSWER, call, status=status, **facts)


NO_LISTING = {"listing_off": 404}

TROUBLES = [
    Trouble("no listing", switches=NO_LISTING, costs={"put_body": 1, "register": 1}),
    Trouble(
        "put cut in the middle",
        (Rule(Fault.CUT, "put_body", after_bytes=1000),),
        costs={"presign": 1, "put_body": 2, "register": 1},
    ),
    Trouble(
        "put answer lost", (lost("put_body"),), costs={"presign": 1, "put_body": 2, "register": 1}
    ),
    Trouble("register answer lost", (lost("register"),), costs={"put_body": 1, "register": 1}),
    Trouble(
        "register answer lost, no listing",
        (lost("register"),),
        NO_LISTING,
        costs={"put_body": 1, "register": 2},
    ),
    Trouble(
        "part cut in the middle",
        (Rule(Fault.CUT, "put_part", part=1, after_bytes=MIB),),
        costs={"initiate": 1, "put_part": 3, "register": 1},
        large=True,
    ),
    Trouble(
        "upload gone",
        (refused("put_part", 404, part=1, body="<Error><Code>NoSuchUpload</Code></Error>"),),
        costs={"initiate": 2, "register": 1},
        large=True,
        leaves=1,
    ),
    Trouble(
        "complete answer lost, gone",
        (lost("complete"),),
        {"second_complete": 404},
        costs={"put_part": 2, "complete": 2, "register": 1},
        large=True,
    ),
    Trouble(
        "complete names parts it does not have",
        (Rule(Fault.WRONG_ETAG, "put_part", part=1),),
        costs={"initiate": 2, "register": 1},
        large=True,
    ),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_after_a_passing_trouble_the_file_is_registered_once(
    nursery: Nursery, tmp_path: Path, cloud: Sandbox, trouble: Trouble
) -> None:
    cloud.switches = replace(cloud.switches, **trouble.switches)
    cloud.faults.add(*trouble.faults)
    home = nursery.home(tmp_path / "home", cloud, large=trouble.large)
    only = BIG if trouble.large else ONE
    for other in {ONE, TWO, BIG} - {only}:
        (home.models / other).unlink(missing_ok=True)
    if trouble.large:
        home.sign_in(cloud)

    done = home.once()

    assert done.code == 0, done.err
    assert records(cloud) == expected(home, only)
    made = Counter(calls(cloud))
    assert {call: made[call] for call in trouble.costs} == trouble.costs
    assert len(cloud.open_uploads()) == trouble.leaves
    assert all(rule.count == 0 for rule in cloud.faults.rules()), "a fault did not happen"


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
