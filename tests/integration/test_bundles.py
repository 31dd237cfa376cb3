"""Models that are folders: all their files come into the catalog, or none does."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home, calls, records, until
from tests.weights import weights

FOLDER = "diffusers/tiny"
SHARDS = [f"{FOLDER}/unet/model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
SHARD = "unet/model-00002-of-00003.safetensors"
INDEX = f"{FOLDER}/unet/model.safetensors.index.json"
OTHERS = [f"{FOLDER}/model_index.json", f"{FOLDER}/tokenizer/merges.txt"]
ALL = [*SHARDS, INDEX, *OTHERS]


@pytest.fixture
def home(tmp_path: Path, cloud: Sandbox) -> Home:
    home = Home.at(tmp_path / "home", cloud)
    home.env |= {
        "SYNCD_SELECT__BUNDLES": "diffusers",
        "SYNCD_SETTLE__ONCE_WAIT_S": "11",
        "SYNCD_SCAN__INTERVAL_S": "1",
    }
    for path in ALL:
        write(home, path)
    home.let_age()
    return home


def write(home: Home, path: str) -> None:
    if path == INDEX:
        names = [shard.rpartition("/")[2] for shard in SHARDS]
        data = json.dumps({"weight_map": {f"w{n}": name for n, name in enumerate(names)}}).encode()
    else:
        data = weights(path.encode()) if path in SHARDS else path.encode()
    home.write(path, data)


def in_catalog(home: Home) -> dict[str, str]:
    return {f"models/{path}": home.sha256(path) for path in ALL}


def test_bundle_is_registered_once_all_members_are_stored(home: Home, cloud: Sandbox) -> None:
    planned = {file["path"]: file for file in home.plan()["files"]}
    done = home.once()

    assert {planned[path]["action"] for path in ALL} == {"upload"}
    assert planned[INDEX]["rule"] == f"bundle {FOLDER}"
    assert done.code == 0
    assert records(cloud) == in_catalog(home)
    made = calls(cloud)
    last_put = len(made) - 1 - made[::-1].index("put_body")
    assert made.index("register") > last_put
    assert home.once().code == 0
    assert calls(cloud) == [*made, "list_models"]  # the look at the catalog that ends each run


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "lacking": (
        lambda folder: (folder / SHARD).unlink(),
        f"diffusers/lacking/{SHARD}, which is not there",
    ),
    "torn": (lambda folder: (folder / SHARD).write_bytes(b"torn"), f"diffusers/torn/{SHARD}"),
    "loading": (
        lambda folder: (folder / f"{SHARD}.part").write_bytes(b""),
        f"diffusers/loading/{SHARD}",
    ),
    "odd": (
        lambda folder: (folder / "odd (1).bin").write_bytes(b"x"),
        "diffusers/odd/odd (1).bin: ",
    ),
    "index": (
        lambda folder: (folder / INDEX.removeprefix(f"{FOLDER}/")).write_bytes(b"{"),
        "diffusers/index/unet/model.safetensors.index.json: it is not an index of shards",
    ),
}
"""What is done to a bundle, and what the others of its files then wait for."""


def test_incomplete_bundle_is_not_presigned_and_names_missing_member(
    home: Home, cloud: Sandbox
) -> None:
    for name, (spoil, _) in SPOILT.items():
        shutil.copytree(home.models / FOLDER, home.models / "diffusers" / name)
        spoil(home.models / "diffusers" / name)
    home.let_age()

    planned = {file["path"]: file for file in home.plan()["files"]}
    done = home.once()

    assert done.code == 1
    shown = re.sub(r"\s+", "", done.out)
    for name, (_, reason) in SPOILT.items():
        step = planned[f"diffusers/{name}/model_index.json"]
        assert step["action"] == "incomplete"
        assert step["reason"].startswith(f"the bundle diffusers/{name} waits for {reason}")
        assert re.sub(r"\s+", "", f"the bundle diffusers/{name} waits for {reason}") in shown
    assert records(cloud) == in_catalog(home)
    assert calls(cloud).count("presign") == len(ALL)


def test_bundle_resumes_after_kill_before_registration(home: Home, cloud: Sandbox) -> None:
    cloud.faults.add(Rule(Fault.ANSWER, call="register", status=503, count=None))
    with home.daemon() as daemon:
        daemon.started()
        until(lambda: "register" in calls(cloud), "what comes once all is stored")
        daemon.stop(signal.SIGKILL)
    assert not cloud.records()
    cloud.faults.clear()

    assert home.once().code == 0
    assert records(cloud) == in_catalog(home)
    assert calls(cloud).count("put_body") == len(ALL)


def test_bundle_with_member_changed_after_upload_is_not_registered(
    home: Home, cloud: Sandbox
) -> None:
    late = f"{FOLDER}/unet/model-00003-of-00003.safetensors"
    cloud.faults.add(
        Rule(Fault.ANSWER, call="presign", contains="00003-of", status=503, count=None)
    )
    with home.daemon() as daemon:
        daemon.started()
        until(lambda: calls(cloud).count("put_body") == len(ALL) - 1, "the other objects")
        (home.models / late).unlink()
        cloud.faults.clear()
        home.write("loras/a.safetensors", weights(b"a"))
        until(lambda: len(cloud.records()) == 1, "another file", within_s=60)
        assert [r["model_type"] for r in cloud.records()] == ["loras"]
        write(home, late)
        until(lambda: len(cloud.records()) == len(ALL) + 1, "the bundle", within_s=60)
        assert daemon.stop() == 143
