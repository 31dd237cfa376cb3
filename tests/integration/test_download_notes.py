"""Notes of the hub client beside real files: which hash is expected, and when none is."""

import os
import time
from pathlib import Path

import pytest

from syncd.fs.download_notes import expected_sha256

SHA = "7c5d3f4b8b76583b422fcb9189ad6c89d5d97a094541ce8932dce3ecabde1421"
COMMIT = "11c5a3d5811f50298f278a704980280950aedb10"
WRITTEN_S = 1_712_656_091.0
MODEL = "checkpoints/SDXL/model.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    model = tmp_path / MODEL
    model.parent.mkdir(parents=True)
    model.write_bytes(b"model")
    os.utime(model, (WRITTEN_S, WRITTEN_S))
    return tmp_path


def note_path(root: Path, folder: str = "", model: str = MODEL) -> Path:
    """As the client lays it out for a download into *folder*, with the repository's path below."""
    below = os.path.relpath(model, folder or ".")
    return root / folder / ".cache/huggingface/download" / f"{below}.metadata"


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def note(etag: str = SHA, at_s: float | str = WRITTEN_S) -> str:
    return f"{COMMIT}\n{etag}\n{at_s}\n"


@pytest.mark.parametrize("folder", ["", "checkpoints", "checkpoints/SDXL"])
def test_note_is_found_in_any_folder_above_the_file(root: Path, folder: str) -> None:
    put(note_path(root, folder), note())

    assert expected_sha256(str(root), MODEL) == SHA


def test_note_above_the_root_is_ignored(root: Path) -> None:
    put(note_path(root), note())

    assert expected_sha256(str(root / "checkpoints"), "SDXL/model.safetensors") is None


@pytest.mark.parametrize(("later_s", "expected"), [(-100.0, SHA), (0.9, SHA), (1.1, None)])
def test_file_as_old_as_its_note_has_expected_hash(
    root: Path, later_s: float, expected: str | None
) -> None:
    os.utime(root / MODEL, (WRITTEN_S + later_s, WRITTEN_S + later_s))
    put(note_path(root), note())

    assert expected_sha256(str(root), MODEL) == expected


def test_outdated_note_does_not_hide_one_further_up(root: Path) -> None:
    put(note_path(root, "checkpoints/SDXL"), note("0" * 64, WRITTEN_S - 60))
    put(note_path(root), note(at_s=time.time()))

    assert expected_sha256(str(root), MODEL) == SHA


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(note(SHA.upper()), id="upper case"),
        pytest.param(note().replace("\n", "\r\n"), id="line ends of Windows"),
    ],
)
def test_note_with_other_spelling_is_accepted(root: Path, content: str) -> None:
    put(note_path(root), content)

    assert expected_sha256(str(root), MODEL) == SHA


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param(
            note("a16a55fda99d2f2e7b69cce5cf93ff4ad3049930"), id="the etag of a small file"
        ),
        pytest.param(f"{COMMIT}\n{SHA}\n", id="no time"),
        pytest.param(note(at_s="inf"), id="never outdated"),
        pytest.param(note(at_s="1" * 4000), id="a long number"),
        pytest.param(b"\xff\x00" * 100, id="binary"),
    ],
)
def test_invalid_note_is_ignored(root: Path, content: str | bytes) -> None:
    put(note_path(root), content)

    assert expected_sha256(str(root), MODEL) is None


def test_note_that_is_not_a_regular_file_is_ignored(root: Path) -> None:
    note_path(root).mkdir(parents=True)
    fifo = note_path(root, "checkpoints")
    fifo.parent.mkdir(parents=True)
    os.mkfifo(fifo)

    assert expected_sha256(str(root), MODEL) is None


@pytest.mark.parametrize(
    "rel_path", ["../b.sft", "SDXL/../../b.sft", "/b.sft", "", "..", "a\0.sft"]
)
def test_path_outside_the_root_has_no_expected_hash(root: Path, rel_path: str) -> None:
    (root / "b.sft").write_bytes(b"model")
    put(note_path(root, model="b.sft"), note(at_s=time.time() + 60))
    assert expected_sha256(str(root), "b.sft") == SHA

    assert expected_sha256(str(root / "checkpoints"), rel_path) is None
