"""Plans and checked pieces of real files, some of which move while they are read."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xxhash

from syncd.errors import FileChanged, JobError
from syncd.fs import hashing
from syncd.types import LEAF_SIZE, FileDigests, Fingerprint, Kind, Part

GO = threading.Event()
LEAF, PIECE = 16, 4
DATA = bytes(range(100))  # seven leaves of 16 bytes, the last one short


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    return str(path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves and pieces of a few bytes, so that a small file has many."""
    monkeypatch.setattr(hashing, "LEAF_SIZE", LEAF)
    monkeypatch.setattr(hashing, "PIECE_SIZE", PIECE)


def leaves_of(data: bytes, leaf: int) -> bytes:
    cuts = range(0, len(data), leaf)
    return b"".join(xxhash.xxh3_128(data[cut : cut + leaf]).digest() for cut in cuts)


def ignore(count: int) -> None:
    """Ignore the count of bytes."""


def plan(path: str, *, on_bytes: Callable[[int], None] = ignore) -> FileDigests:
    return hashing.hash_file(path, hashing.read_fingerprint(path), stop=GO, on_bytes=on_bytes)


def pieces(path: str, part: Part, expected: Fingerprint | None = None) -> Iterator[bytes]:
    return hashing.checked_pieces(
        path,
        expected or hashing.read_fingerprint(path),
        part,
        leaves_of(DATA, LEAF),
        stop=GO,
        on_bytes=ignore,
    )


def sent_before_error(source: Iterator[bytes], message: str) -> bytes:
    """What left until the source raised FileChanged with that message."""
    sent: list[bytes] = []
    with pytest.raises(FileChanged, match=message):
        sent.extend(source)
    return b"".join(sent)


def change_byte(path: str, offset: int) -> None:
    """Change a byte at *offset* and restore mtime: only ctime and the content differ."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", offset)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


WHOLE = Part(1, 0, len(DATA))


# -- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, LEAF_SIZE - 1, LEAF_SIZE, LEAF_SIZE + 1, 2 * LEAF_SIZE + 5])
def test_digests_equal_those_of_hashlib_and_xxhash(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    counts: list[int] = []
    made = plan(str(path), on_bytes=counts.append)

    assert made == FileDigests(
        size, hashlib.sha256(data).hexdigest(), leaves_of(data, 4 * 1024 * 1024)
    )
    assert sum(counts) == size


FIELDS = ("dev", "inode", "size", "mtime_ns", "ctime_ns")


def moved(fingerprint: Fingerprint, field: str) -> Fingerprint:
    return fingerprint._replace(**{field: getattr(fingerprint, field) - 1})


@pytest.mark.parametrize("field", FIELDS)
def test_changed_file_is_not_hashed(model: str, field: str) -> None:
    counts: list[int] = []
    with pytest.raises(FileChanged, match=rf"changed: {field} \d+ -> \d+$"):
        hashing.hash_file(
            model, moved(hashing.read_fingerprint(model), field), stop=GO, on_bytes=counts.append
        )

    assert counts == []


def append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(append, id="appended to"),
        pytest.param(lambda path: os.utime(path, ns=(1, 1)), id="touched"),
        pytest.param(lambda path: os.chmod(path, 0o600), id="chmod: perhaps a rewrite"),
        pytest.param(os.unlink, id="deleted"),
        pytest.param(lambda path: change_byte(path, 0), id="rewritten with mtime put back"),
    ],
)
def test_file_that_changes_while_it_is_hashed_gets_no_digests(
    model: str, disturb: Callable[[str], None]
) -> None:
    disturbed: list[int] = []

    def once(count: int) -> None:
        if not disturbed:
            disturb(model)
        disturbed.append(count)

    with pytest.raises(FileChanged, match="changed: "):
        plan(model, on_bytes=once)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("left", [0, 15, 16, 17, 99])
def test_F08_file_truncated_while_it_is_hashed_gets_no_digests(model: str, left: int) -> None:
    with pytest.raises(FileChanged, match="became shorter while it was read"):
        plan(model, on_bytes=lambda count: os.truncate(model, left))


# -- checked pieces ------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("at", [0, 3, 15, 16, 40, 95, 96, 99])
def test_F06_a_changed_byte_under_the_same_stat_stops_its_leaf_before_the_last_piece(
    model: str, at: int
) -> None:
    expected = hashing.read_fingerprint(model)
    change_byte(model, at)
    sent = sent_before_error(pieces(model, WHOLE, expected), "holds other bytes")

    leaf_end = min((at // LEAF + 1) * LEAF, len(DATA))
    assert len(sent) <= leaf_end - PIECE
    assert len(sent) >= at // LEAF * LEAF  # the leaves before it were whole and have left


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("part", "at"), [(Part(1, 0, 24), 31), (Part(2, 24, 24), 17)])
def test_I01_a_part_is_not_whole_on_the_wire_before_the_leaves_its_edges_cut_agree(
    model: str, part: Part, at: int
) -> None:
    expected = hashing.read_fingerprint(model)
    change_byte(model, at)  # in the same leaf, outside the part
    sent = sent_before_error(pieces(model, part, expected), "holds other bytes")

    assert len(sent) < part.size


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("field", ["inode", "size", "mtime_ns"])
def test_changed_file_is_not_sent(model: str, field: str) -> None:
    source = pieces(model, WHOLE, moved(hashing.read_fingerprint(model), field))

    assert sent_before_error(source, f"changed: {field}") == b""


@pytest.mark.usefixtures("small")
def test_I34_file_of_another_device_that_agrees_but_for_ctime_is_not_hashed(model: str) -> None:
    judged, counts = moved(moved(hashing.read_fingerprint(model), "dev"), "ctime_ns"), list[int]()
    hasher = hashing.Hasher(model, judged, read_again=True)

    with pytest.raises(FileChanged, match=r"dev .* ctime_ns"):
        hasher.read_to(judged.size, stop=GO, on_bytes=counts.append)
    assert counts == []


@pytest.mark.usefixtures("small")
def test_I34_file_of_another_device_that_agrees_but_for_ctime_is_not_sent(model: str) -> None:
    judged = moved(moved(hashing.read_fingerprint(model), "dev"), "ctime_ns")

    assert sent_before_error(pieces(model, WHOLE, judged), "changed: dev") == b""


@pytest.mark.usefixtures("small")
def test_changed_ctime_alone_does_not_stop_sending(model: str) -> None:
    expected = moved(hashing.read_fingerprint(model), "ctime_ns")

    assert b"".join(pieces(model, WHOLE, expected)) == DATA


@pytest.mark.usefixtures("small")
def test_F08_file_truncated_while_it_is_sent_is_detected(model: str) -> None:
    source = pieces(model, WHOLE)
    next(source)
    os.truncate(model, 50)

    assert len(sent_before_error(source, "became shorter while it was sent")) < 50


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_hashing_stops_at_the_next_leaf(model: str) -> None:
    stop, counts = threading.Event(), list[int]()

    def count(read: int) -> None:
        counts.append(read)
        stop.set()

    with pytest.raises(hashing.Stopped):
        hashing.hash_file(model, hashing.read_fingerprint(model), stop=stop, on_bytes=count)

    assert counts == [LEAF]


@pytest.mark.usefixtures("small")
def test_sending_stops_at_the_next_piece(model: str) -> None:
    stop = threading.Event()
    source = hashing.checked_pieces(
        model,
        hashing.read_fingerprint(model),
        WHOLE,
        leaves_of(DATA, LEAF),
        stop=stop,
        on_bytes=ignore,
    )
    first = next(source)
    stop.set()
    with pytest.raises(hashing.Stopped):
        next(source)

    assert first == DATA[:PIECE]


# -- files that are not there, or not files ------------------------------------------------------


ABSENT = Fingerprint(0, 0, len(DATA), 0, 0)


def read_all(path: str) -> None:
    hashing.hash_file(path, ABSENT, stop=GO, on_bytes=ignore)


def send_all(path: str) -> None:
    for _ in pieces(path, WHOLE, ABSENT):
        raise AssertionError("nothing can be sent")


DOORS = pytest.mark.parametrize("read", [hashing.read_fingerprint, read_all, send_all])


@DOORS
def test_F09_a_vanished_file_is_gone(tmp_path: Path, read: Callable[[str], object]) -> None:
    with pytest.raises(FileChanged, match=r"is gone$"):
        read(str(tmp_path / "nothing"))


@DOORS
def test_F17_a_pipe_in_the_files_place_is_refused_without_waiting_for_a_writer(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(FileChanged, match="no longer a regular file"):
        read(str(tmp_path / "pipe"))


@DOORS
def test_a_link_to_itself_cannot_be_read_and_says_what_to_check(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(JobError, match="cannot be read: Too many levels") as caught:
        read(str(tmp_path / "loop"))

    assert caught.value.kind is Kind.LOCAL_READ_ERROR
    assert caught.value.advice


AS_OTHER_ACCOUNT = """
import os, sys
from syncd.fs import hashing
from syncd.errors import Permanent
if os.geteuid() == 0:  # root may read everything
    os.setgroups([]); os.setegid(65534); os.seteuid(65534)
try:
    hashing.read_fingerprint(sys.argv[1])
except Permanent as error:
    print(error.kind, error, "/", error.advice)
"""


def test_F13_unreadable_file_fails_with_the_command_that_fixes_it(model: str) -> None:
    os.chmod(model, 0)
    printed = subprocess.run(
        [sys.executable, "-c", AS_OTHER_ACCOUNT, model], capture_output=True, text=True, check=True
    ).stdout

    assert printed.startswith(f"local_read_error {model} cannot be read: Permission denied")
    assert f"chmod a+r '{model}'" in printed


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("small")
def test_no_descriptor_stays_open_whatever_happens(model: str, tmp_path: Path) -> None:
    before = descriptors()
    source = pieces(model, WHOLE)
    next(source)
    during = descriptors()
    del source
    sent_before_error(
        pieces(model, WHOLE, moved(hashing.read_fingerprint(model), "inode")), "changed"
    )
    with pytest.raises(FileChanged):
        plan(str(tmp_path))

    assert (during, descriptors()) == (before + 1, before)
