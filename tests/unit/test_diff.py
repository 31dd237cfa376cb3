from collections.abc import Iterator

import pytest

from syncd.core.files.diff import Gone, Moved, New, diff
from syncd.types import Fingerprint, FoundFile, KnownFile, Verdict

PRINT = Fingerprint(dev=1, inode=2, size=3, mtime_ns=4, ctime_ns=5)


def found(rel_path: str, fingerprint: Fingerprint = PRINT) -> FoundFile:
    return FoundFile(1, rel_path, fingerprint, allocated=512)


def known(rel_path: str, fingerprint: Fingerprint = PRINT) -> KnownFile:
    return KnownFile(1, rel_path, fingerprint, Verdict.WANTED)


def test_an_unchanged_tree_yields_nothing() -> None:
    assert list(diff([found("a/x"), found("b/x")], [known("a/x"), known("b/x")])) == []


def test_new_moved_and_gone_come_in_path_order() -> None:
    rewritten = found("b", PRINT._replace(size=9))

    changes = list(diff([found("a"), rewritten, found("d")], [known("b"), known("c"), known("d")]))

    assert changes == [New(found("a")), Moved(rewritten, known("b")), Gone(known("c"))]


def test_an_unchanged_file_about_which_something_else_is_decided_now_counts_as_moved() -> None:
    (change,) = diff(
        [found("a"), found("b")], [known("a"), known("b")], stands=lambda file: file.rel_path == "a"
    )

    assert change == Moved(found("b"), known("b"))
    assert isinstance(change, Moved)
    assert not change.only_ctime


@pytest.mark.parametrize("field", ["inode", "size", "mtime_ns"])
def test_a_rewritten_or_replaced_file_has_moved(field: str) -> None:
    (change,) = diff([found("a", PRINT._replace(**{field: 99}))], [known("a")])

    assert isinstance(change, Moved)
    assert not change.only_ctime


@pytest.mark.parametrize("dev", [1, 99])
def test_a_chmod_moves_only_the_ctime_on_whatever_device(dev: int) -> None:
    (change,) = diff([found("a", PRINT._replace(ctime_ns=99, dev=dev))], [known("a")])

    assert isinstance(change, Moved)
    assert change.only_ctime


def test_another_device_number_alone_is_no_change() -> None:
    assert list(diff([found("a", PRINT._replace(dev=99))], [known("a")])) == []


def test_an_older_mtime_is_a_change_like_any_other() -> None:
    assert len(list(diff([found("a", PRINT._replace(mtime_ns=1))], [known("a")]))) == 1


def test_I20_nothing_below_an_unreadable_folder_is_gone() -> None:
    changes = list(diff([], [known("a/x"), known("ab"), known("b")], unjudged={"a"}))

    assert changes == [Gone(known("ab")), Gone(known("b"))]


def test_I20_nothing_at_all_is_gone_from_an_unreadable_root() -> None:
    assert list(diff([], [known("a"), known("b")], unjudged={""})) == []


def test_a_folder_found_unreadable_during_the_walk_is_respected() -> None:
    unjudged = set[str]()

    def walk() -> Iterator[FoundFile]:
        yield found("a")
        unjudged.add("b")
        yield found("c")

    assert list(diff(walk(), [known("a"), known("b/x"), known("c")], unjudged=unjudged)) == []


@pytest.mark.parametrize("paths", [["b", "a"], ["a", "a"]])
def test_a_side_out_of_order_is_our_bug_and_not_a_vanished_file(paths: list[str]) -> None:
    with pytest.raises(ValueError, match="out of path order"):
        list(diff([found(path) for path in paths], []))
    with pytest.raises(ValueError, match="out of path order"):
        list(diff([], [known(path) for path in paths]))


def test_order_is_that_of_the_bytes_on_disk() -> None:
    undecodable, astral = "a\udcff", "a\U0001f600"  # bytes 61 ff, and 61 f0 9f 98 80

    assert list(diff([found(astral), found(undecodable)], [])) == [
        New(found(astral)),
        New(found(undecodable)),
    ]
