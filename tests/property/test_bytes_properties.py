"""Properties of the bytes that are sent for a part."""

import hashlib
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from syncd.errors import FileChanged
from syncd.fs import hashing
from syncd.types import Fingerprint, Part
from tests.memory import folder

LEAF, PIECE = 64, 24
FLAG = threading.Event()

contents = st.binary(min_size=1, max_size=300)
cuts = st.sets(st.integers(1, 299), max_size=5)


@pytest.fixture(scope="module", autouse=True)
def _small_leaves() -> Iterator[None]:
    with (
        mock.patch.object(hashing, "LEAF_SIZE", LEAF),
        mock.patch.object(hashing, "PIECE_SIZE", PIECE),
    ):
        yield


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with folder() as made:
        yield made / "model"


def write(path: Path, content: bytes) -> Fingerprint:
    path.write_bytes(content)
    return hashing.read_fingerprint(str(path))


def parts_of(size: int, cuts: set[int]) -> list[Part]:
    edges = [0, *sorted(cut for cut in cuts if cut < size), size]
    return [Part(n, a, b - a) for n, (a, b) in enumerate(itertools.pairwise(edges), start=1)]


def sent(
    path: Path, seen: Fingerprint, part: Part, leaves: bytes, counts: list[int]
) -> list[bytes]:
    return [
        *hashing.checked_pieces(str(path), seen, part, leaves, stop=FLAG, on_bytes=counts.append)
    ]


@given(contents, cuts)
def test_parts_yield_every_byte_once(path: Path, content: bytes, cuts: set[int]) -> None:
    seen, counts = write(path, content), list[int]()
    plan = hashing.hash_file(str(path), seen, stop=FLAG, on_bytes=counts.append)

    assert plan.sha256 == hashlib.sha256(content).hexdigest()
    assert plan.leaves == b"".join(
        xxhash.xxh3_128_digest(content[at : at + LEAF]) for at in range(0, len(content), LEAF)
    )
    assert sum(counts) == len(content)
    counts.clear()
    parts = parts_of(len(content), cuts)
    bodies = [sent(path, seen, part, plan.leaves, counts) for part in parts]
    assert [len(b"".join(body)) for body in bodies] == [part.size for part in parts]
    assert b"".join(itertools.chain(*bodies)) == content
    assert sum(counts) == len(content)
    assert max(map(len, itertools.chain(*bodies))) <= PIECE


@given(contents, cuts, st.integers(0, 299), st.integers(1, 255))
def test_changed_part_is_never_sent_whole(
    path: Path, content: bytes, cuts: set[int], at: int, flipped: int
) -> None:
    at %= len(content)
    seen = write(path, content)
    plan = hashing.hash_file(str(path), seen, stop=FLAG, on_bytes=lambda count: None)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([content[at] ^ flipped]))
    os.utime(path, ns=(seen.mtime_ns, seen.mtime_ns))

    for part in parts_of(len(content), cuts):
        first, last = part.offset // LEAF, (part.offset + part.size - 1) // LEAF
        counts = list[int]()
        if first <= at // LEAF <= last:
            with pytest.raises(FileChanged):
                sent(path, seen, part, plan.leaves, counts)
            assert sum(counts) < part.size
        else:
            assert sum(map(len, sent(path, seen, part, plan.leaves, counts))) == part.size


@given(contents, st.integers(0, 320))
def test_file_of_other_length_is_noticed_before_first_byte(
    path: Path, content: bytes, size: int
) -> None:
    seen = write(path, content)
    plan = hashing.hash_file(str(path), seen, stop=FLAG, on_bytes=lambda count: None)
    os.truncate(path, size)
    os.utime(path, ns=(seen.mtime_ns, seen.mtime_ns))
    counts, whole = list[int](), Part(1, 0, len(content))

    if size == len(content):
        assert b"".join(sent(path, seen, whole, plan.leaves, counts)) == content
    else:
        with pytest.raises(FileChanged):
            sent(path, seen, whole, plan.leaves, counts)
        assert counts == []
