from collections.abc import Iterator

import pytest

from syncd.core.files.diff import Changed, Gone, New, diff
from syncd.types import Fingerprint, FoundFile, KnownFile, Verdict

PRINT = Fingerprint(dev=1, inode=2, size=3, mtime_ns=4, ctime_ns=5)


def found(rel_path: str, fingerprint: Fingerprint = PRINT) -> FoundFile:
    return FoundFile(1, rel_path, fingerprint, allocated=512)


def known(rel_path: str, fingerprint: Fingerprint = PRINT) -> KnownFile:
    return KnownFile(1, rel_path, fingerprint, Verdict.WANTED)


def test_unchanged_tree_has_no_changes() -> None:
    assert list(diff([found("a/x"), found("b/x")], [known("a/x"), known("b/x")])) == []


def test_changes_come_in_path_order() -> None:
    rewritten = found("b", PRINT._replace(size=9))

    changes = list(diff([found("a"), rewritten, found("d")], [known("b"), known("c"), known("d")]))

    assert changes == [New(found("a")), Changed(rewritten, known("b")), Gone(known("c"))]


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


def test_device_number_alone_is_no_change() -> None:
    assert list(diff([found("a", PRINT._replace(dev=99))], [known("a")])) == []


def test_I20_file_below_unreadable_folder_is_not_gone() -> None:
    changes = list(diff([], [known("a/x"), known("ab"), known("b")], unjudged={"a"}))

    assert changes == [Gone(known("ab")), Gone(known("b"))]


def test_I20_file_in_unreadable_root_is_not_gone() -> None:
    assert list(diff([], [known("a"), known("b")], unjudged={""})) == []


def test_folder_that_becomes_unreadable_during_walk_is_respected() -> None:
    unjudged = set[str]()

    def walk() -> Iterator[FoundFile]:
        yield found("a")
        unjudged.add("b")
        yield found("c")

    assert list(diff(walk(), [known("a"), known("b/x"), known("c")], unjudged=unjudged)) == []


def test_order_is_by_bytes() -> None:
    undecodable, astral = "a\udcff", "a\U0001f600"  # bytes 61 ff, and 61 f0 9f 98 80

    assert list(diff([found(astral), found(undecodable)], [])) == [
        New(found(astral)),
        New(found(undecodable)),
    ]
