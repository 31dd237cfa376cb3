"""I34: what a link in the tree may publish that leads out of it."""

import hashlib
import json
import os
import sqlite3
import zipfile
from pathlib import Path

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home, records, until
from tests.model_files import torch_zip
from tests.weights import weights

SECRET = "CANARY"
KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET * 100}\n-----END OPENSSH PRIVATE KEY-----\n"


def beside(home: Home, rel_path: str, content: bytes) -> Path:
    """A file outside of the tree."""
    path = home.state.parent / rel_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def link(home: Home, rel_path: str, target: Path) -> None:
    path = home.models / rel_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def assert_kept(home: Home, cloud: Sandbox, rel_path: str, *states: str) -> str:
    """Require that nothing of a file is sent or quoted; the reason that is shown."""
    done, planned, shown = home.once(), home.run("plan"), home.file(rel_path)

    assert shown["state"] in states
    assert f"models/{rel_path}" not in records(cloud)
    assert [
        e for e in cloud.history.entries("presign") if e.model_path == f"models/{rel_path}"
    ] == []
    for text in (done.out, done.err, planned.out, planned.err, home.run("status").out):
        assert SECRET not in text
    return str(shown["reason"])


@pytest.mark.parametrize("ending", [".bin", ".pt", ".onnx"])
def test_I34_link_to_private_key_is_refused(home: Home, cloud: Sandbox, ending: str) -> None:
    link(home, f"loras/x{ending}", beside(home, "backup/id_ed25519", KEY.encode()))

    reason = assert_kept(home, cloud, f"loras/x{ending}", "refused", "incomplete")

    assert "backup/id_ed25519, outside the models directories" in reason


def test_I34_link_to_database_is_refused(home: Home, cloud: Sandbox) -> None:
    path = home.state.parent / "cookies.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cookies (value TEXT)")
        database.execute("INSERT INTO cookies VALUES (?)", (SECRET,))
    database.close()
    link(home, "loras/x.pt", path)

    assert "does not have the format" in assert_kept(home, cloud, "loras/x.pt", "refused")


def test_I34_link_to_document_in_a_zip_archive_is_refused(home: Home, cloud: Sandbox) -> None:
    document = home.state.parent / "salaries.docx"
    with zipfile.ZipFile(document, "w") as archive:
        archive.writestr("word/document.xml", SECRET)
    link(home, "loras/x.pt", document)

    assert "does not have the format" in assert_kept(home, cloud, "loras/x.pt", "refused")


def test_link_to_torch_archive_is_published(home: Home, cloud: Sandbox) -> None:
    link(home, "loras/x.pt", beside(home, "big/x.pt", torch_zip()))
    home.let_age()

    assert home.once().code == 0
    assert "models/loras/x.pt" in records(cloud)


@pytest.mark.parametrize("folder", [".ssh", ".config/browser", "state"])
def test_I34_link_to_whole_model_in_private_place_is_refused(
    home: Home, cloud: Sandbox, folder: str
) -> None:
    link(home, "loras/x.safetensors", beside(home, f"{folder}/x.safetensors", weights(b"hers")))

    reason = assert_kept(home, cloud, "loras/x.safetensors", "refused")

    assert "nothing below" in reason


@pytest.mark.skipif(not Path("/sys/kernel/notes").exists(), reason="sysfs is not mounted")
def test_I34_link_into_kernel_file_system_is_refused(home: Home, cloud: Sandbox) -> None:
    link(home, "loras/x.pt", Path("/sys/kernel/notes"))

    assert "nothing below /sys is published" in assert_kept(home, cloud, "loras/x.pt", "refused")


def test_I34_files_below_linked_folder_count_as_outside(home: Home, cloud: Sandbox) -> None:
    beside(home, "elsewhere/key.bin", KEY.encode())
    link(home, "loras/linked", home.state.parent / "elsewhere")

    assert_kept(home, cloud, "loras/linked/key.bin", "refused")


def test_I34_reason_quotes_no_number_from_a_file_outside(home: Home, cloud: Sandbox) -> None:
    number = 0x0123_4567_89AB
    content = number.to_bytes(8, "little") + bytes(100)
    link(home, "loras/x.safetensors", beside(home, "secret.db", content))

    reason = assert_kept(home, cloud, "loras/x.safetensors", "incomplete")

    assert f"{number:,}" not in reason
    assert "is not a whole model file" in reason


def test_linked_folder_on_another_disk_is_published_and_marked_in_plan(
    home: Home, cloud: Sandbox
) -> None:
    target = beside(home, "big/loras/x.safetensors", weights(b"on another disk"))
    link(home, "loras/big", target.parent)
    home.let_age()

    (planned,) = [f for f in home.plan()["files"] if f["path"] == "loras/big/x.safetensors"]
    shown = home.run("plan").out
    done = home.once()

    assert (planned["action"], planned["link_target"]) == ("upload", os.fspath(target))
    assert "->" in shown
    assert done.code == 0
    assert "models/loras/big/x.safetensors" in records(cloud)


def test_I34_link_that_is_swapped_after_it_was_judged_is_not_read(
    home: Home, cloud: Sandbox
) -> None:
    model = beside(home, "big/x.safetensors", weights(b"a model, and then a key"))
    key = beside(home, "backup/id_ed25519", KEY.encode().ljust(model.stat().st_size))
    os.truncate(key, model.stat().st_size)
    os.utime(key, ns=(0, model.stat().st_mtime_ns))
    link(home, "loras/x.safetensors", model)
    home.let_age()
    cloud.faults.add(Rule(Fault.DELAY, "list_models", delay_s=2.0, count=None))

    with home.daemon() as daemon:
        until(lambda: daemon.events("file.queued"), "the judgement")
        (home.models / "loras/new").symlink_to(key)
        (home.models / "loras/new").rename(home.models / "loras/x.safetensors")
        until(
            lambda: home.file("loras/x.safetensors")["state"] == "incomplete", "the new judgement"
        )
        daemon.stop()

    stored = {record["storage_key"] for record in cloud.records()}
    assert hashlib.sha256(key.read_bytes()).hexdigest() not in set(map(cloud.stored_sha256, stored))


def test_I34_bundle_reason_quotes_no_index_outside(home: Home) -> None:
    home.env["SYNCD_SELECT__BUNDLES"] = "diffusers"
    home.write("diffusers/x/unet/model.safetensors", weights(b"part of a bundle"))
    index = json.dumps({"weight_map": {"a": f"A{SECRET}"}}).encode()
    link(home, "diffusers/x/unet/z.index.json", beside(home, "settings.json", index))

    planned, shown = home.plan(), home.run("plan")

    actions = {file["path"]: file["action"] for file in planned["files"]}
    assert actions["diffusers/x/unet/z.index.json"] == "refused"
    assert actions["diffusers/x/unet/model.safetensors"] == "incomplete"
    assert SECRET not in json.dumps(planned) + shown.out + shown.err
