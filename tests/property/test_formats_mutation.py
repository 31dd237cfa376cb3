"""
Broken and hostile model files: 20,000 an input format, the same ones in every run.

Whatever stands in a file, a check ends with a verdict, after a number of reads that the size of the
file bounds; and a whole file that was cut never passes for whole.
"""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from syncd.ingest.formats import jsontext, structure
from tests.model_files import CHANGES, SAMPLES, Change, cut, safetensors

MUTANTS = 20_000
"""An input format, in equal shares for the ways to change a file."""


@dataclass(slots=True)
class Reads:
    """What was read through ``os.pread``."""

    calls: int = 0
    size: int = 0


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    counted, pread = Reads(), os.pread

    def counting(fd: int, count: int, position: int) -> bytes:
        data = pread(fd, count, position)
        counted.calls += 1
        counted.size += len(data)
        return data

    monkeypatch.setattr(os, "pread", counting)
    return counted


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "model", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", SAMPLES)
def test_any_content_gets_a_verdict_after_few_reads(
    fd: int, reads: Reads, kind: str, change: Change
) -> None:
    name, samples = SAMPLES[kind]
    chance = random.Random(f"{kind} {change.__name__}")
    for _ in range(MUTANTS // len(CHANGES)):
        content = change(chance.choice(samples), chance)
        if content and chance.random() < 0.2:
            content = chance.choice(CHANGES)(content, chance)
        write(fd, content)
        reads.calls = reads.size = 0
        verdict = structure.check(fd, name, len(content))

        assert verdict.sentence.isprintable()
        assert reads.calls <= 8 + len(content) // 46  # the least that an entry of a zip file takes
        assert reads.size <= 6 * len(content)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_whole_file_that_was_cut_is_never_complete(fd: int, kind: str) -> None:
    name, samples = SAMPLES[kind]
    chance = random.Random(kind)
    for _ in range(2_000):
        content = cut(chance.choice(samples), chance)
        write(fd, content)

        assert not structure.check(fd, name, len(content)).complete, content


@pytest.mark.parametrize("window", [7, 61, 262_144])
def test_a_safetensors_header_gets_the_verdict_that_json_would_give(
    fd: int, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(jsontext, "WINDOW", window)
    monkeypatch.setattr(jsontext, "MAX_TOKEN", 64)
    chance = random.Random(window)
    for _ in range(5_000):
        header = chance.choice(HEADERS)
        for _ in range(chance.choice((1, 1, 2, 3))):
            header = rewrite(header, chance)
        content = safetensors(header.encode(), bytes(90))
        write(fd, content)

        assert structure.check(fd, "m.sft", len(content)).complete == fits(header, 90), header


HEADERS = (
    '{"a":{"dtype":"F16","shape":[3,4],"data_offsets":[0,24]},'
    '"b":{"dtype":"F16","shape":[],"data_offsets":[24,90]}}',
    '{"__metadata__": {"k": "v\\n", "x": [true, null, -1.5e3]}, "a": {"data_offsets": [0, 89]}, '
    '"a\\u0041": {"shape": [ 0 ], "data_offsets": [7, 90], "more": {"deep": [[], {}, "x"]}}} ',
)
TOKENS = (
    *'":,{}[] \n09-.ea\u00e4\0\\',
    '"data_offsets":[0,91]',
    '"data_offsets":[0,90],',
    '"__metadata__":',
    '"x":"y",',
    "\\u0064",
    "[1,2]",
    "null",
)


def rewrite(text: str, chance: random.Random) -> str:
    """A token more, less, instead or twice."""
    at, count = chance.randrange(len(text) + 1), chance.choice((0, 0, 1, 1, 5))
    start = chance.randrange(len(text) + 1)
    token: str = chance.choice((*TOKENS, *TOKENS, "", text[start : start + 20]))
    return text[:at] + token + text[at + count :]


def fits(header: str, data: int) -> bool:
    """Python's own parser's opinion; pairs keep names that are given twice."""
    try:
        tensors = json.loads(header, object_pairs_hook=Pairs, parse_int=Digits, parse_constant=no)
        return max((0, *ends(tensors))) <= data
    except (ValueError, TypeError):
        return False


class Pairs(list[tuple[str, Any]]):
    """An object."""


class Digits(str):
    """An integer as written: a minus before a zero is no offset."""

    __slots__ = ()


def no(_: str) -> None:
    raise ValueError("not JSON")


def ends(tensors: Any) -> Iterator[int]:
    for name, tensor in pairs(tensors):
        if name != "__metadata__":
            offsets = [value for key, value in pairs(tensor) if key == "data_offsets"]
            if not offsets:
                raise ValueError("no offsets")
            yield from map(end, offsets)


def pairs(value: Any) -> Pairs:
    if not isinstance(value, Pairs):
        raise TypeError("no object")
    return value


def end(offsets: Any) -> int:
    if isinstance(offsets, Pairs) or not all(isinstance(each, Digits) for each in offsets):
        raise TypeError("no array of integers")
    first, last = offsets
    if not (first + last).isdigit() or int(first) > int(last):
        raise ValueError("no offsets")
    return int(last)


def write(fd: int, content: bytes) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, content, 0)
