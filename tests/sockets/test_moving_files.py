"""
T14: real files that another thread changes while they are read, sent or registered.

``SYNCD_ONLY='"17"'`` makes one run.
"""

import ctypes
import mmap
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.monitoring.progress import Meter
from syncd.sandbox.history import Entry
from syncd.types import Call, Job
from tests.crash.lanes import each
from tests.oracle import check
from tests.scale import scaled
from tests.seeds import Seeds, named
from tests.sockets.rig import rigged
from tests.sockets.wire import Wire
from tests.weights import HEADER, SMALLEST, weights, write_safetensors

TOGETHER = 10
"""Files in one run, each drawn by itself."""

SEEDS = Seeds(Path(__file__).with_name("seeds_moving.txt"), fixed=50, count=scaled(250) // TOGETHER)
BATCH = 25

LIBC = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE = 1, 2

SIZES = (700, 4096, 9_000, 14_000, 15_360)
MOMENTS = (
    "hashing", "hashing", "sending", "sending",
    Call.PRESIGN, Call.PUT_BODY, Call.PUT_PART, Call.COMPLETE, Call.REGISTER,
)  # fmt: skip


def append(path: Path, draw: random.Random) -> None:
    with path.open("ab") as file:
        file.write(draw.randbytes(draw.randrange(1, 6000)))


def rewrite(path: Path, draw: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(draw.randrange(1, path.stat().st_size))
        file.write(draw.randbytes(1))


def rewrite_and_put_mtime_back(path: Path, draw: random.Random) -> None:
    before = path.stat()
    rewrite(path, draw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_through_a_map(path: Path, draw: random.Random) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[draw.randrange(len(mapped))] ^= 0xFF
        mapped.flush()


def rename_over(path: Path, draw: random.Random) -> None:
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.write_bytes(weights(draw.randbytes(path.stat().st_size - HEADER)))
    fresh.rename(path)


def truncate(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(SMALLEST, path.stat().st_size))


def delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def punch_a_hole(path: Path, draw: random.Random) -> None:
    """Zeros, and the same size; Python has no call for it."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        at, length = ctypes.c_int64(draw.randrange(size)), ctypes.c_int64(4096)
        failed = LIBC.fallocate(file.fileno(), KEEP_SIZE | PUNCH_HOLE, at, length)
        assert not failed, os.strerror(ctypes.get_errno())


CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    append, rewrite, rewrite_and_put_mtime_back, write_through_a_map, rename_over, truncate, delete,
    punch_a_hole,
)  # fmt: skip


class Somebody:
    """Changes each file once, in a thread of its own, at the moment that its seed chose."""

    def __init__(self, models: Path, seeds: list[str]) -> None:
        self.changed: dict[str, str] = {}
        self.note: Callable[[], None] = lambda: None
        self._models = models
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[str, int, random.Random]] = {}
        self._seen: dict[tuple[str, str], int] = {}
        for seed in seeds:
            draw = random.Random(seed)
            # Under this ending no content is called broken, so what was changed has to arrive.
            rel_path, size = f"loras/{seed}.pt", draw.choice(SIZES)
            write_safetensors(models / rel_path, size)
            self._waiting[rel_path] = (draw.choice(MOMENTS), draw.randrange(size), draw)

    def meets(self, rel_path: str, moment: str, count: int) -> None:
        """So many bytes more (or a call) of a file; whoever says so waits for the change."""
        with self._lock:
            key = (rel_path, moment)
            self._seen[key] = self._seen.get(key, 0) + count
            wanted = self._waiting.get(rel_path)
            if wanted is None or wanted[0] != moment:
                return
            if moment in ("hashing", "sending") and self._seen[key] <= wanted[1]:
                return
            del self._waiting[rel_path]
            change = wanted[2].choice(CHANGES)
            thread = threading.Thread(target=change, args=(self._models / rel_path, wanted[2]))
            thread.start()
            thread.join()
            self.changed[rel_path] = f"{change.__name__} at {moment}"
            self.note()

    def hears(self, entry: Entry) -> None:
        """A call took effect; its answer is still to come."""
        if entry.model_path is not None:
            self.meets(entry.model_path.removeprefix("models/"), entry.call, 1)


class Watching(Meter):
    """Tells somebody which bytes of which file are being read."""

    def __init__(self, somebody: Somebody) -> None:
        super().__init__()
        self._somebody = somebody
        self._paths: dict[int, str] = {}

    def begin(self, job: Job) -> None:
        self._paths[job.id] = job.rel_path
        super().begin(job)

    def add_hashed(self, job_id: int, count: int) -> None:
        super().add_hashed(job_id, count)
        self._somebody.meets(self._paths[job_id], "hashing", count)

    def add_sent(self, job_id: int, count: int) -> None:
        super().add_sent(job_id, count)
        if count > 0:
            self._somebody.meets(self._paths[job_id], "sending", count)


def go_through(seed: str, folder: Path, both: tuple[Wire, Wire]) -> set[str]:
    """One run of some files; what was done to them and when."""
    models = folder / seed / "models"
    somebody = Somebody(models, [f"{seed}.{n}" for n in range(TOGETHER)])
    (models / "vae").mkdir()
    write_safetensors(models / "vae/stays.safetensors", 1000)
    with rigged(models, both, meter=lambda: Watching(somebody)) as rig:
        somebody.note, rig.cloud.on_entry = rig.note_versions, somebody.hears
        try:
            rig.run()
            rig.cloud.on_entry = lambda entry: None
            codes = rig.settle()
            assert codes[-1] == 0, codes
            check(rig.evidence())
            for record in rig.cloud.records():
                assert record["file_hash"][7:] in rig.versions[record["model_path"]]
        except AssertionError as error:
            said = rig.said.getvalue()
            raise AssertionError(f"{somebody.changed}\n{error}\n{said}") from error
    return set(somebody.changed.values())


@pytest.mark.parametrize("seeds", SEEDS.batches(BATCH), ids=named)
def test_T14_F05_to_F10_whoever_writes_meanwhile_only_whole_versions_are_registered(
    seeds: list[str], tmp_path: Path, both: tuple[Wire, Wire], request: pytest.FixtureRequest
) -> None:
    attempt = SEEDS.remembering(lambda seed: go_through(seed, tmp_path, both))
    done = each(attempt, seeds, request, lanes=1)

    request.node.user_properties.append(("cases", len(done) * TOGETHER))
    if len(done) == BATCH:
        told = set[str]().union(*done)
        assert {what.split(" at ")[0] for what in told} == {change.__name__ for change in CHANGES}
        assert {what.split(" at ")[1] for what in told} == {str(moment) for moment in MOMENTS}
