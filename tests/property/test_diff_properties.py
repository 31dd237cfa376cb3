import os

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.files.diff import Changed, Gone, New, diff
from syncd.types import Fingerprint, FoundFile, KnownFile, Verdict

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
    assert [(c.found, c.known) for c in changes if isinstance(c, Changed)] == [
        (found[p], known[p])
        for p in found
        if p in known and identity(disk[p]) != identity(memory[p])
    ]
    assert [c.known for c in changes if isinstance(c, Gone)] == [
        known[p]
        for p in known
        if p not in found and not any(p == top or p.startswith(top + "/") for top in unjudged)
    ]
