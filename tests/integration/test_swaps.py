"""
Who may write to the tree swaps folders and links during a scan, and gains nothing outside of it.

A process of its own does the swapping, so that it strikes between any two system calls.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from syncd.core.files.boundary import Boundary
from syncd.errors import FileChanged, JobError
from syncd.fs import hashing, scanner
from syncd.ingest import integrity
from syncd.types import FoundFile
from tests.scale import scaled
from tests.weights import weights

INSIDE, SECRET = weights(b"inside" * 100), weights(b"secret" * 100)
SWAPPER = """
import os, sys
tree, spare, outside = sys.argv[1:]
folder, link = tree + "/loras", tree + "/vae/x.pt"
kept, away, new = spare + "/kept", spare + "/away", spare + "/new"
os.symlink(outside, away)
print("at it", flush=True)
while True:
    os.rename(folder, kept)  # a folder makes room for a link to one outside
    os.rename(away, folder)
    os.symlink(outside + "/x.pt", new)
    os.replace(new, link)  # a link to a file inside becomes one that leads outside
    os.rename(folder, away)
    os.rename(kept, folder)
    os.symlink("../inside/x.pt", new)
    os.replace(new, link)
"""


@contextmanager
def swapped(models: Path, outside: Path) -> Iterator[None]:
    """``loras`` and ``vae/x.pt`` lead outside of *models*, to *outside*, by turns."""
    spare = models.parent / "spare"
    for folder in (models / "vae", spare):
        folder.mkdir(parents=True)
    for folder in (models / "loras", models / "inside", outside):
        folder.mkdir(parents=True)
        (folder / "x.pt").write_bytes(SECRET if folder == outside else INSIDE)
    (models / "vae/x.pt").symlink_to("../inside/x.pt")
    command = [sys.executable, "-c", SWAPPER, *map(str, (models, spare, outside))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
        assert process.poll() is None, "it swapped to the end"
    finally:
        process.kill()
        process.communicate()


def found_by(models: Path, rule: scanner.Symlinks) -> Iterator[FoundFile]:
    """Yield what scans and examinations find; links to files leave the narrowest gap, so they come often."""
    for below in ("", "vae", "vae", "vae"):
        batches = scanner.scan(
            str(models), 1, below=below, symlinks=rule, problem=lambda path, error: None
        )
        yield from scanner.files_in(batches)
    for rel_path in ("loras/x.pt", "vae/x.pt"):
        found = scanner.find_file(str(models), 1, rel_path, symlinks=rule)
        if found is not None:
            yield found


def bytes_of(models: Path, found: FoundFile) -> str | None:
    """The hash of what is read for *found*; None where it is no longer there to be read."""
    try:
        boundary = Boundary(frozenset({os.path.realpath(models)}), frozenset())
        judged = integrity.judge(str(models), found, boundary=boundary, lease=False)
        if judged.verdict is None:
            return None
        path = str(models / found.rel_path)
        plan = hashing.hash_file(path, found.fingerprint, stop=Event(), on_bytes=lambda n: None)
    except (FileChanged, JobError):
        return None
    return plan.sha256


@dataclass
class Seen:
    """What many tries came to: (path, found outside?), and the hashes of what was read."""

    found: set[tuple[str, bool]] = field(default_factory=set)
    read: set[str | None] = field(default_factory=set)


def tried(
    tmp_path: Path,
    rule: scanner.Symlinks,
    tries: int,
    *,
    enough: Callable[[Seen], bool] = lambda seen: False,
) -> Seen:
    """Scan and read while links are swapped, until *enough* was seen, *tries* times at most."""
    models, outside, seen = tmp_path / "models", tmp_path / "outside", Seen()
    with swapped(models, outside):
        secret = (outside / "x.pt").stat().st_ino
        for _ in range(tries):
            for found in found_by(models, rule):
                seen.found.add((found.rel_path, found.fingerprint.inode == secret))
                seen.read.add(bytes_of(models, found))
            if enough(seen):
                break
    return seen


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


RULES: tuple[scanner.Symlinks, ...] = ("within_roots", "skip")


@pytest.mark.parametrize("rule", RULES)
def test_F17_swapped_link_never_exposes_outside_file(
    tmp_path: Path, rule: scanner.Symlinks
) -> None:
    seen = tried(tmp_path, rule, scaled(1_000) // len(RULES))

    assert ("loras/x.pt", False) in seen.found
    assert not [path for path, outside in seen.found if outside]
    assert sha256(INSIDE) in seen.read
    assert sha256(SECRET) not in seen.read
