from collections.abc import Iterator

import pytest

from syncd.core.files.diff import Changed, diff
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


@pytest.mark.parametrize("field", ["inode", "size", "mtime_ns"])
def test_rewritten_or_replaced_file_is_a_change(field: str) -> None:
    (change,) = diff([found("a", PRINT._replace(**{field: 99}))], [known("a")])

    assert isinstance(change, Changed)
    assert not change.only_ctime


@pytest.mark.parametrize("dev", [1, 99])
def test_chmod_is_a_change_of_ctime_only(dev: int) -> None:
    (change,) = diff([found("a", PRINT._replace(ctime_ns=99, dev=dev))], [known("a")])

    assert isinstance(change, Changed)
    assert change.only_ctime


def test_folder_that_becomes_unreadable_during_walk_is_respected() -> None:
    unjudged = set[str]()

    def walk() -> Iterator[FoundFile]:
        yield found("a")
        unjudged.add("b")
        yield found("c")

    assert list(diff(walk(), [known("a"), known("b/x"), known("c")], unjudged=unjudged)) == []
