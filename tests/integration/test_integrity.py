"""Files that stand still and are no whole models: what is said of them, and that nothing leaves."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.core.files.boundary import Boundary
from syncd.fs import mounts, scanner
from syncd.ingest import integrity
from syncd.sandbox.server import Sandbox
from syncd.types import FoundFile, Verdict
from tests.accounts import as_other_account
from tests.integration.harness import Home, records, until
from tests.weights import MIB, weights, write_safetensors

ONE, TWO = "loras/one.safetensors", "vae/two.pt"
HALF = "checkpoints/half.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
PAGE = b"<!DOCTYPE html><html><body>404: no such model</body></html>"

WRITER = """
import sys, time
path, total, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(sys.argv[4], "rb") as source, open(path, "ab") as file:
    source.seek(file.tell())
    while file.tell() < stop:
        file.write(source.read(min(65536, stop - file.tell())))
        file.flush()
    print("there", flush=True)
    time.sleep(0 if stop == total else 60)
"""


def presigned(cloud: Sandbox, rel_path: str) -> int:
    return sum(e.model_path == f"models/{rel_path}" for e in cloud.history.entries("presign"))


def found(root: Path, rel_path: str) -> FoundFile:
    file = scanner.find_file(os.fspath(root), 1, rel_path)
    assert file is not None
    return file


def within(root: Path) -> Boundary:
    return Boundary(frozenset({os.path.realpath(root)}), frozenset())


def judged(root: Path, rel_path: str, *, lease: bool = True) -> integrity.Judgement:
    file = found(root, rel_path)
    return integrity.judge(os.fspath(root), file, boundary=within(root), lease=lease)


# -- a whole run -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "state", "words"),
    [
        ("half.safetensors", weights(bytes(5000))[:4000], "incomplete", "the file has 3,872"),
        ("few.ckpt", b"few", "incomplete", "3 bytes are too few"),
        ("pointer.safetensors", POINTER, "refused", "git lfs pull"),
        ("page.gguf", PAGE, "refused", "saved web page"),
        ("error.pt", b'{"error": "no such model"}', "refused", "saved error message"),
    ],
)
def test_I05_incomplete_model_is_planned_shown_and_never_presigned(
    home: Home, cloud: Sandbox, name: str, content: bytes, state: str, words: str
) -> None:
    path = f"checkpoints/{name}"
    home.write(path, content)

    (planned,) = [file for file in home.plan()["files"] if file["path"] == path]
    done, left, shown = home.once(), home.file(path), home.run("status").out
    (planned_next,) = [file for file in home.plan()["files"] if file["path"] == path]

    assert (planned["action"], left["state"], done.code) == (state, state, 1)
    assert planned_next == planned
    for text in (planned["reason"], left["reason"], done.out, shown):
        assert words in text
    assert sorted(records(cloud)) == [f"models/{ONE}", f"models/{TWO}"]
    assert presigned(cloud, path) == 0


def test_incomplete_file_is_registered_once_it_is_complete(home: Home, cloud: Sandbox) -> None:
    whole = weights(os.urandom(5000))
    home.write(HALF, whole[:3000])
    first = home.once()
    with (home.models / HALF).open("ab") as file:
        file.write(whole[3000:])

    second = home.once()

    assert (first.code, second.code) == (1, 0)
    assert records(cloud)[f"models/{HALF}"] == home.sha256(HALF)


def test_file_with_other_hash_than_noted_is_not_uploaded(home: Home, cloud: Sandbox) -> None:
    path = home.write(HALF, weights(b"whole, and not what the hub sent"))
    note = path.parent / ".cache/huggingface/download/half.safetensors.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"commit\n{'ab' * 32}\n{time.time() + 1}\n")

    done, again, left = home.once(), home.once(), home.file(HALF)
    note.write_text(f"commit\n{home.sha256(HALF)}\n{time.time() + 1}\n")
    corrected = home.once()

    assert (done.code, again.code, left["state"]) == (1, 1, "incomplete")
    assert "ab" * 32 in left["reason"]
    assert [e["path"] for e in again.events("file.queued")] == [], "it was read again for nothing"
    assert corrected.code == 0
    assert presigned(cloud, HALF) == 1


# -- while it runs ---------------------------------------------------------------------------------


def write_by_a_process(path: Path, source: Path, upto: int) -> subprocess.Popen[str]:
    arguments = (path, source.stat().st_size, upto, source)
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("lease", ["true", "false"])
def test_I05_half_file_of_killed_writer_is_not_presigned_until_complete(
    home: Home, cloud: Sandbox, lease: str
) -> None:
    home.env["SYNCD_SETTLE__READ_LEASE"] = lease
    source = write_safetensors(home.state.parent / "source", 3 * MIB)
    path = home.models / HALF
    path.parent.mkdir()
    with home.daemon() as daemon:
        daemon.started()
        with write_by_a_process(path, source, MIB) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "there\n"
            writer.kill()
        until(lambda: daemon.events("file.incomplete"), "the verdict")
        halfway, left = presigned(cloud, HALF), home.file(HALF)
        with write_by_a_process(path, source, 3 * MIB) as writer:
            assert writer.wait() == 0
        until(lambda: f"models/{HALF}" in records(cloud), "the finished file")

        assert halfway == 0
        assert (left["state"], left["size"]) == ("incomplete", MIB)
        assert records(cloud)[f"models/{HALF}"] == home.sha256(HALF)
        assert presigned(cloud, HALF) == 1
        assert daemon.stop() == 143


# -- one look --------------------------------------------------------------------------------------


def test_file_with_holes_is_incomplete_although_its_header_fits(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", 4 * MIB)
    content = path.read_bytes()
    with path.open("wb") as file:
        file.write(content[:MIB])
        file.seek(3 * MIB)
        file.write(content[3 * MIB :])
    mount = mounts.mount_of(os.fspath(tmp_path))
    assert mount.fs_type not in integrity.COMPRESSING, "this test needs another file system"

    judgement = judged(tmp_path, "x.safetensors")

    assert judgement.verdict is Verdict.INCOMPLETE
    assert "holes" in (judgement.reason or "")
    path.write_bytes(content)
    assert judged(tmp_path, "x.safetensors") == integrity.VALID


def test_file_with_holes_of_unknown_format_is_valid(tmp_path: Path) -> None:
    with (tmp_path / "x.pt").open("wb") as file:
        file.write(b"\x01" * 100)
        file.truncate(MIB)

    assert judged(tmp_path, "x.pt") == integrity.VALID


def test_file_open_for_writing_waits(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", 5000)
    with path.open("r+b"):
        open_for_writing = judged(tmp_path, "x.safetensors")
        not_asked = judged(tmp_path, "x.safetensors", lease=False)
    with path.open("rb"):
        open_for_reading = judged(tmp_path, "x.safetensors")

    assert open_for_writing == integrity.Judgement(None, "a program has it open for writing")
    assert not_asked == open_for_reading == integrity.VALID


def test_file_that_changed_since_its_fingerprint_is_not_judged(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", 5000)
    before = found(tmp_path, "x.safetensors")
    path.write_bytes(weights(bytes(100)))

    assert (
        integrity.judge(os.fspath(tmp_path), before, boundary=within(tmp_path), lease=True).verdict
        is None
    )


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that anybody may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_file_without_read_permission_is_unreadable_with_advice(open_to_all: Path) -> None:
    write_safetensors(open_to_all / "x.safetensors", 5000).chmod(0)
    with as_other_account():
        judgement = judged(open_to_all, "x.safetensors")

    assert judgement.verdict is Verdict.UNREADABLE
    assert f"chmod a+r '{open_to_all}/x.safetensors'" in (judgement.reason or "")
