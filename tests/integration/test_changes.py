"""What becomes of records when files change, move or go."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Unique
from tests.integration.conftest import MULTIPART_TESTS
from tests.integration.harness import Finished, Home
from tests.weights import write_safetensors

SIZE = 3000
CHANGED, MOVED, GONE = (
    "loras/changed.safetensors",
    "loras/moved.safetensors",
    "vae/gone.safetensors",
)
NEW_PLACE = "checkpoints/sub/renamed.safetensors"


@contextmanager
def lived(folder: Path, *rel_paths: str, **switches: Any) -> Iterator[tuple[Home, Sandbox]]:
    """A home whose files are registered with a cloud of those switches."""
    with Sandbox(folder / "cloud", switches=replace(MULTIPART_TESTS, **switches)) as cloud:
        home = Home.at(folder, cloud)
        for rel_path in rel_paths:
            write_safetensors(home.models / rel_path, SIZE)
        home.let_age()
        first = home.once()
        assert first.code == 0, first.said
        yield home, cloud


def change(home: Home, rel_path: str) -> None:
    write_safetensors(home.models / rel_path, SIZE + 1000)


def move(home: Home, rel_path: str, to: str) -> None:
    (home.models / to).parent.mkdir(parents=True, exist_ok=True)
    (home.models / rel_path).rename(home.models / to)


def again(home: Home) -> Finished:
    home.let_age()
    return home.once()


def record_states(cloud: Sandbox) -> list[tuple[str, str, str]]:
    """(path, status, SHA-256) of every record."""
    return sorted(
        (record["model_path"], record["model_status"], record["file_hash"][7:])
        for record in cloud.records()
    )


def sent(cloud: Sandbox) -> int:
    """Bodies that reached the store."""
    return len(cloud.history.entries("put_body"))


def test_new_bytes_are_registered_before_old_record_is_disabled(
    tmp_path: Path,
) -> None:
    with lived(tmp_path, CHANGED) as (home, cloud):
        old = home.sha256(CHANGED)
        change(home, CHANGED)
        done = again(home)

        assert done.code == 0
        path = f"models/{CHANGED}"
        assert record_states(cloud) == sorted(
            [(path, "active", home.sha256(CHANGED)), (path, "disabled", old)]
        )
        order = [entry.call for entry in cloud.history.entries()]
        assert order.index("update_model") > max(
            i for i, call in enumerate(order) if call == "register"
        )


def test_renamed_file_moves_its_record_without_upload(tmp_path: Path) -> None:
    with lived(tmp_path, MOVED) as (home, cloud):
        ids = {record["id"] for record in cloud.records()}
        bodies = sent(cloud)
        move(home, MOVED, NEW_PLACE)
        done = again(home)

        assert done.code == 0
        assert sent(cloud) == bodies
        (record,) = cloud.records()
        assert {record["id"]} == ids
        assert (record["model_path"], record["model_type"], record["display_name"]) == (
            f"models/{NEW_PLACE}",
            "checkpoints",
            "renamed",
        )
        assert record["model_status"] == "active"


def test_server_without_updates_keeps_both_records_and_one_warning(tmp_path: Path) -> None:
    with lived(tmp_path, CHANGED, MOVED, update_off=405) as (home, cloud):
        change(home, CHANGED)
        move(home, MOVED, NEW_PLACE)
        done = again(home)

        assert done.code == 0
        assert {status for _, status, _ in record_states(cloud)} == {"active"}
        assert [path for path, *_ in record_states(cloud)] == [
            f"models/{NEW_PLACE}",
            f"models/{CHANGED}",
            f"models/{CHANGED}",
            f"models/{MOVED}",
        ]
        (kept,) = done.events("record.not_retired")
        assert "new file name" in kept["advice"]
        assert not home.once().events("record.not_retired")


def test_old_record_is_disabled_first_if_a_path_has_one_record(tmp_path: Path) -> None:
    with lived(tmp_path, CHANGED, unique_paths=Unique.EXACT) as (home, cloud):
        change(home, CHANGED)
        done = again(home)

        assert done.code == 0
        active = [path for path, status, sha in record_states(cloud) if status == "active"]
        assert active == [f"models/{CHANGED}"]
        assert (f"models/{CHANGED}", "active", home.sha256(CHANGED)) in record_states(cloud)


def test_old_record_is_enabled_again_if_register_is_refused(tmp_path: Path) -> None:
    clash = {"unique_paths": Unique.EXACT, "disabled_records_clash": True}
    with lived(tmp_path, CHANGED, **clash) as (home, cloud):
        before = record_states(cloud)
        change(home, CHANGED)
        done = again(home)

        assert done.code == 1
        assert record_states(cloud) == before
        (file,) = home.status()["files"]
        assert file["state"] == "failed"
        assert "new name" in file["advice"]


@pytest.mark.parametrize(
    ("on_delete", "left"), [("disable", ["disabled"]), ("delete", [])], ids=["disable", "delete"]
)
def test_record_of_deleted_file_is_retired_after_grace(
    on_delete: str, left: list[str], tmp_path: Path
) -> None:
    with lived(tmp_path, CHANGED, GONE) as (home, cloud):
        home.env["SYNCD_CATALOG__ON_DELETE"] = on_delete
        (home.models / GONE).unlink()
        home.once()
        in_grace = record_states(cloud)
        home.env["SYNCD_CATALOG__DELETE_GRACE_S"] = "0"
        home.once()

        assert [status for _, status, _ in in_grace] == ["active", "active"]
        assert [status for path, status, _ in record_states(cloud) if path.endswith(GONE)] == left
        assert [status for path, status, _ in record_states(cloud) if path.endswith(CHANGED)] == [
            "active"
        ]


def test_more_deletions_than_allowed_are_blocked_and_reported(tmp_path: Path) -> None:
    with lived(tmp_path, CHANGED, MOVED, GONE) as (home, cloud):
        home.env |= {
            "SYNCD_CATALOG__ON_DELETE": "delete",
            "SYNCD_CATALOG__DELETE_GRACE_S": "0",
            "SYNCD_CATALOG__DELETE_MOST": "1",
        }
        before = record_states(cloud)
        (home.models / MOVED).unlink()
        (home.models / GONE).unlink()
        done = home.once()

        assert record_states(cloud) == before
        (event,) = done.events("record.deletions_blocked")
        assert (event["records"], event["most"]) == (2, 1)


def test_record_of_another_maker_is_never_changed(tmp_path: Path) -> None:
    with lived(tmp_path, CHANGED, MOVED, GONE) as (home, cloud):
        stranger = Home.at(tmp_path / "other", cloud)
        for rel_path in (CHANGED, MOVED, GONE):
            stranger.write(rel_path, (home.models / rel_path).read_bytes())
        again(stranger)
        before = record_states(cloud)
        stranger.env |= {
            "SYNCD_CATALOG__ON_DELETE": "delete",
            "SYNCD_CATALOG__DELETE_GRACE_S": "0",
        }
        change(stranger, CHANGED)
        move(stranger, MOVED, NEW_PLACE)
        (stranger.models / GONE).unlink()
        again(stranger)

        assert set(before) < set(record_states(cloud))
        assert "update_model" not in [entry.call for entry in cloud.history.entries()]
        assert "delete_model" not in [entry.call for entry in cloud.history.entries()]
