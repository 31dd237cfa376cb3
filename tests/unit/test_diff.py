import os
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.files.diff import Changed, Gone, New, diff
from syncd.types import Fingerprint, FoundFile, KnownFile, Verdict

PRINT = Fingerprint(dev=1, inode=2, size=3, mtime_ns=4, ctime_ns=5)


def found(rel_path: str, fingerprint: Fingerprint = PRINT) -> FoundFile:
    return FoundFile(1, rel_path, fingerprint, allocated=512)


def known(rel_path: str, fingerprint: Fingerprint = PRINT) -> KnownFile:
    return KnownFile(1, rel_path, fingerprint, Verdict.WANTED)


def test_unchanged_file_with_outdated_decision_is_a_change() -> None:
    (change,) = diff(
        [found("a"), found("b")],
        [known("a"), known("b")],
        is_current=lambda file: file.rel_path == "a",
    )

    assert change == Changed(found("b"), known("b"))
    assert isinstance(change, Changed)
    assert not change.only_ctime


def test_folder_that_becomes_unreadable_during_walk_is_respected() -> None:
    unjudged = set[str]()

    def walk() -> Iterator[FoundFile]:
        yield found("a")
        unjudged.add("b")
        yield found("c")

    assert list(diff(walk(), [known("a"), known("b/x"), known("c")], unjudged=unjudged)) == []


Tree = dict[str, Fingerprint]

small = st.integers(0, 2)
trees = st.dictionaries(
    st.binary(min_size=1, max_size=3).map(os.fsdecode),
    st.builds(Fingerprint, dev=small, inode=small, size=small, mtime_ns=small, ctime_ns=small),
)


def in_order(tree: Tree) -> list[str]:
    return sorted(tree, key=os.fsencode)


def identity(print_: Fingerprint) -> tuple[int, ...]:
    return print_.inode, print_.size, print_.mtime_ns, print_.ctime_ns


@given(trees, trees, st.sets(st.binary(min_size=1, max_size=2).map(os.fsdecode), max_size=2))
def test_diff_equals_comparison_of_dictionaries(
    disk: Tree, memory: Tree, unjudged: set[str]
) -> None:
    found = {p: FoundFile(1, p, disk[p], 0) for p in in_order(disk)}
    known = {p: KnownFile(1, p, memory[p], Verdict.WANTED) for p in in_order(memory)}

    changes = list(diff(found.values(), known.values(), unjudged=unjudged))

    assert [c.found for c in changes if isinstance(c, New)] == [
        found[p] for p in found if p not in known
    ]
    assert [(c.found, c.known, c.only_ctime) for c in changes if isinstance(c, Changed)] == [
        (found[p], known[p], identity(disk[p])[:3] == identity(memory[p])[:3])
        for p in found
        if p in known and identity(disk[p]) != identity(memory[p])
    ]
    assert [c.known for c in changes if isinstance(c, Gone)] == [
        known[p]
        for p in known
        if p not in found and not any(p == top or p.startswith(top + "/") for top in unjudged)
    ]
