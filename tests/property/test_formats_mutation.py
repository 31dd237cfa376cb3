"""
Broken and hostile model files: 20,000 per input format, the same ones in every run.

Every check ends with a verdict after a bounded number of reads.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncd.ingest.formats import structure
from tests.model_files import CHANGES, SAMPLES, Change

MUTANTS = 20_000
"""The input format of a mutation."""


@dataclass(slots=True)
class Reads:
    """Counts the reads through ``os.pread``."""

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
def test_any_content_gets_verdict_after_few_reads(
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
        assert reads.calls <= 8 + len(content) // 46  # the smallest entry of a zip file
        assert reads.size <= 6 * len(content)


def write(fd: int, content: bytes) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, content, 0)
