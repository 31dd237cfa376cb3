"""The store on real SQLite: what goes in comes out, in the order and the number that is promised."""

from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.store import files
from syncd.store.files import Wanted
from syncd.store.store import Store
from syncd.types import Fingerprint, FoundFile, KnownFile, Priority, Target, Verdict
from tests.memory import folder

names = st.binary(min_size=1, max_size=6).map(lambda name: name.replace(b"\0", b"/"))
unsigned = st.integers(0, 2**64 - 1)
times = st.integers(-(2**63), 2**63 - 1)
prints = st.builds(Fingerprint, unsigned, unsigned, st.integers(1, 2**53), times, times)


class Memory:
    """One store for all examples; each has a root of its own and leaves no job."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.roots = 0

    def new_root(self) -> int:
        self.roots += 1
        return self.store.files.root_id(f"/models/{self.roots}")

    def forget(self, root_id: int) -> None:
        self.store.files.forget([*self.store.files.known(root_id)], 9)


@pytest.fixture(scope="module")
def memory() -> Iterator[Memory]:
    with folder() as state_dir:
        store = Store(str(state_dir))
        yield Memory(store)
        store.close()


def named(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def wanted(found: FoundFile, priority: Priority = Priority.BACKFILL) -> Wanted:
    place = f"{found.root_id}/{found.rel_path.encode('utf-8', 'surrogateescape').hex()}"
    return Wanted(found, Target(f"models/{place}", "loras", "é\n", place), place, priority)


@given(st.dictionaries(names, prints, min_size=1, max_size=4))
def test_names_and_numbers_survive_the_store(
    memory: Memory, files_: dict[bytes, Fingerprint]
) -> None:
    root_id = memory.new_root()
    found = {named(name): FoundFile(root_id, named(name), p, 0) for name, p in files_.items()}

    admission = memory.store.files.admit(map(wanted, found.values()), 5)

    for (_, path), job_id in admission.jobs.items():
        job = memory.store.jobs.get(job_id)
        assert (job.rel_path, job.fingerprint) == (path, found[path].fingerprint)
        assert job.target == wanted(found[path]).target
    assert {known.rel_path: known.fingerprint for known in memory.store.files.known(root_id)} == {
        path: each.fingerprint for path, each in found.items()
    }
    assert len(admission.jobs) == len(found)
    memory.forget(root_id)


KINDS_OF_DEED = ["admit", "judge", "forget"]
FEW_NAMES = [b"a", b"a/b", b"a/\xff", b"a0", b"A", b"b"]
deeds = st.lists(st.tuples(st.sampled_from(KINDS_OF_DEED), st.sampled_from(FEW_NAMES)), max_size=8)


@given(deeds, st.sampled_from(["", "a", "a/b", "b"]), st.integers(1, 3))
def test_known_files_are_paged_in_order(
    memory: Memory, story: list[tuple[str, bytes]], below: str, page: int
) -> None:
    root_id = memory.new_root()
    model: dict[bytes, tuple[Fingerprint, Verdict]] = {}
    for version, (deed, name) in enumerate(story, start=1):
        found = FoundFile(root_id, named(name), Fingerprint(1, 2, version, 4, 5), 0)
        if deed == "admit":
            memory.store.files.admit([wanted(found)], version)
            model[name] = found.fingerprint, Verdict.WANTED
        elif deed == "judge":
            memory.store.files.judge([(found, Verdict.IGNORED, "reason", None)], version)
            model[name] = found.fingerprint, Verdict.IGNORED
        else:
            known = KnownFile(root_id, named(name), found.fingerprint, Verdict.WANTED)
            memory.store.files.forget([known], version)
            model.pop(name, None)

    with mock.patch.object(files, "PAGE", page):
        seen = [*memory.store.files.known(root_id, below)]

    top = below.encode()
    assert [(each.rel_path, each.fingerprint, each.verdict) for each in seen] == [
        (named(name), *model[name])
        for name in sorted(model)
        if not top or name == top or name.startswith(top + b"/")
    ]
    memory.forget(root_id)
