"""A large new file is hashed while it is sent: kills, changes and doubts in between."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.fs.page_cache import cached_pages
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import LEAF_SIZE, Call
from tests.integration.harness import YOUNGEST_S, Home, records
from tests.trap import Trap, facts, nth, run
from tests.weights import MIB, sha256_of, write_safetensors

pytestmark = pytest.mark.crash

LARGE = "models/checkpoints/large.safetensors"
SIZE, PARTS = 70 * MIB + 1000, 15
"""More than may be hashed ahead of the first part: its hash is known only after parts were sent."""

SWITCHES = Switches(part_size=5 * MIB, second_complete=404)


@pytest.fixture
def trap() -> Trap:
    return Trap()


@pytest.fixture
def cloud(trap: Trap) -> Iterator[Sandbox]:
    with Sandbox(switches=SWITCHES, listener=trap) as sandbox:
        yield sandbox


@pytest.fixture
def home(tmp_path: Path, cloud: Sandbox) -> Home:
    return home_of(tmp_path, cloud)


def home_of(folder: Path, cloud: Sandbox) -> Home:
    """A signed-in user with one large file, and one request at a time."""
    home = Home.at(folder, cloud)
    home.sign_in(cloud)
    home.env |= {"SYNCD_UPLOAD__PARTS": "1", "SYNCD_UPLOAD__PARTS_MAX": "1"}
    write_safetensors(file_of(home), SIZE)
    time.sleep(YOUNGEST_S)
    return home


def file_of(home: Home) -> Path:
    return home.models.parent / LARGE


def require_registered(cloud: Sandbox, home: Home) -> None:
    assert records(cloud) == {LARGE: sha256_of(file_of(home))}
    assert not cloud.open_uploads()


def test_I10_parts_sent_before_the_hash_was_known_are_not_sent_again(
    cloud: Sandbox, home: Home, trap: Trap
) -> None:
    trap.kill(home, nth(Call.PUT_PART, 4))
    known = facts(home)[LARGE]
    assert known.sha256 is None
    assert known.etags == {1, 2, 3}
    done = run(home, "--once")

    assert done.code == 0, done.err
    require_registered(cloud, home)
    sent = [entry.part for entry in cloud.history.entries(Call.PUT_PART)]
    assert sorted(filter(None, sent)) == sorted([*range(1, PARTS + 1), 4])
    assert cloud.history.count(Call.PRESIGN) == 1


def test_I01_bytes_that_changed_after_they_were_sent_are_not_registered(
    cloud: Sandbox, home: Home, trap: Trap
) -> None:
    trap.kill(home, nth(Call.PUT_PART, 3))
    path = file_of(home)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(b"another")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    time.sleep(YOUNGEST_S)
    assert facts(home)[LARGE].sha256 is None
    done = run(home, "--once")

    assert done.code == 0, done.err
    require_registered(cloud, home)
    assert cloud.history.count(Call.COMPLETE) == 1


def test_file_with_other_hash_than_announced_is_not_completed(cloud: Sandbox, home: Home) -> None:
    note = home.models / ".cache/huggingface/download/checkpoints/large.safetensors.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{'a' * 40}\n{'0' * 64}\n{time.time()}\n")
    done = run(home, "--once")

    assert done.code == 1, done.err
    assert home.file("checkpoints/large.safetensors")["state"] == "incomplete"
    assert (cloud.history.count(Call.COMPLETE), records(cloud)) == (0, {})
    assert not cloud.open_uploads()


def test_file_that_the_catalog_may_hold_is_hashed_before_it_is_sent(
    cloud: Sandbox, home: Home
) -> None:
    assert run(home, "--once").code == 0
    shutil.rmtree(home.state)
    done = run(home, "--once")

    assert done.code == 0, done.err
    require_registered(cloud, home)
    assert cloud.history.count(Call.PRESIGN) == 1
    assert cloud.history.count(Call.PUT_PART) == PARTS


def test_I03_storage_key_of_an_earlier_version_is_refused_after_hashing(tmp_path: Path) -> None:
    with Sandbox(switches=Switches(part_size=5 * MIB, fresh_keys=False)) as cloud:
        home = home_of(tmp_path, cloud)
        assert run(home, "--once").code == 0
        write_safetensors(file_of(home), SIZE + MIB)
        time.sleep(YOUNGEST_S)
        done = run(home, "--once")

        assert done.code == 1, done.err
        assert "storage key of other bytes" in done.err
        assert cloud.history.count(Call.INITIATE) == 1
        assert facts(home)[LARGE].sha256 == sha256_of(file_of(home))


def test_upload_leaves_the_page_cache_unchanged(cloud: Sandbox, home: Home) -> None:
    path = file_of(home)
    with path.open("rb") as file:
        fd = file.fileno()
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_pages(fd, 0, 0) != 0:
            pytest.skip("this kernel or file system does not tell what is in the page cache")
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
        kept = 4 * LEAF_SIZE
        os.pread(fd, 2 * LEAF_SIZE, kept)
        before = cached_pages(fd, kept, 2 * LEAF_SIZE) or 0
        assert run(home, "--once").code == 0

        left = cached_pages(fd, kept, 2 * LEAF_SIZE) or 0
        pages_a_leaf = LEAF_SIZE // os.sysconf("SC_PAGE_SIZE")
        # The structure check read the beginning before anything was hashed.
        assert (cached_pages(fd, 0, 0) or 0) <= left + pages_a_leaf
        assert left > before / 2  # the kernel may reclaim some of its own accord
    require_registered(cloud, home)
