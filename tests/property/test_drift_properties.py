"""Drift of every kind is found, whatever a listing holds and in whatever order it comes."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.catalog.drift import Comparison, Finding, FindingKind, LocalFile
from syncd.types import Record

PATHS = ("models/a", "models/b", "models/c", "models/d")
CONTENTS = ("", "x", "y", "xx")
"""Few, so that all of it meets; a content's hash is its letters, its size their number."""


@dataclass(frozen=True)
class Told:
    """What somebody told of one record: a content, and which members the listing leaves out."""

    path: str | None
    content: str
    disabled: bool
    hashed: bool
    sized: bool


tellings = st.builds(
    Told,
    path=st.sampled_from((*PATHS, None)),
    content=st.sampled_from(CONTENTS),
    disabled=st.booleans(),
    hashed=st.sampled_from((True, True, True, False)),
    sized=st.sampled_from((True, True, True, False)),
)
trees = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(CONTENTS))


def digits(content: str) -> str:
    return content.ljust(64, "0")


def as_record(number: int, told: Told) -> Record:
    return Record(
        id=str(number),
        model_path=told.path,
        model_type=None,
        display_name=None,
        storage_key=None,
        file_size=len(told.content) if told.sized else None,
        file_hash=f"sha256:{digits(told.content)}" if told.hashed else None,
        model_status="disabled" if told.disabled else "active",
    )


def compared(tree: dict[str, str], listing: list[Told], read: set[str]) -> list[Finding]:
    """What the comparison says of it, where the files of *read* were read before."""
    files = [
        LocalFile((1, path), path, len(content), digits(content) if path in read else None)
        for path, content in tree.items()
    ]
    comparison, found = Comparison(files), []
    for number, told in enumerate(listing):
        record = as_record(number, told)
        for file in comparison.unhashed(record):
            comparison.set_hash(file, digits(tree[file.model_path]))
        if (finding := comparison.add(record)) is not None:
            found.append(finding)
    return [*found, *comparison.finish()]


def plainly(
    tree: dict[str, str], listing: list[Told]
) -> Counter[tuple[FindingKind, str, str, bool]]:
    """The same by looking at everything for each: (kind, record, path of the file, is it drift)."""
    found: list[tuple[FindingKind, str, str, bool]] = []
    met = set()
    equal = {t.path for t in listing if not t.disabled and is_equal(tree, t)}
    for number, told in enumerate(listing):
        kind, file = one(tree, told)
        if kind is FindingKind.DISABLED:
            met |= {file} if file else set()
            file = "" if file in equal else file
        else:
            met |= {file} if file else set()
        if kind is FindingKind.OTHER_PATH:
            met |= {path for path, content in tree.items() if content == told.content}
            file = "somewhere"
        drift = bool(file) if kind is FindingKind.DISABLED else kind is not FindingKind.EQUAL
        found.append((kind, str(number), file, drift))
    found += [(FindingKind.LOCAL_ONLY, "", path, True) for path in tree if path not in met]
    return Counter(found)


def is_equal(tree: dict[str, str], told: Told) -> bool:
    return told.hashed and tree.get(told.path or "") == told.content


def differs(content: str, told: Told) -> bool:
    """Is it sure that the record holds something else?"""
    return (told.hashed and told.content != content) or (
        told.sized and len(told.content) != len(content)
    )


def one(tree: dict[str, str], told: Told) -> tuple[FindingKind, str]:
    path = told.path if told.path in tree else None
    if told.disabled:
        return FindingKind.DISABLED, path if path and not differs(tree[path], told) else ""
    if path is not None:
        if differs(tree[path], told):
            return FindingKind.OTHER_BYTES, path
        return (FindingKind.EQUAL if told.hashed else FindingKind.NO_KNOWLEDGE), path
    if not told.hashed:
        return FindingKind.NO_KNOWLEDGE, ""
    return (FindingKind.OTHER_PATH if told.content in tree.values() else FindingKind.CLOUD_ONLY), ""


def counted(
    tree: dict[str, str], found: list[Finding]
) -> Counter[tuple[FindingKind, str, str, bool]]:
    rows = []
    for each in found:
        file = "" if each.file is None else each.file.model_path
        if each.kind is FindingKind.OTHER_PATH:
            assert each.file is not None
            assert each.record is not None
            assert f"sha256:{digits(tree[file])}" == each.record.file_hash
            file = "somewhere"
        rows.append((each.kind, each.record.id if each.record else "", file, each.is_drift))
    return Counter(rows)


@given(trees, st.lists(tellings, max_size=8), st.sets(st.sampled_from(PATHS)))
def test_streamed_comparison_equals_full_comparison(
    tree: dict[str, str], listing: list[Told], read: set[str]
) -> None:
    assert counted(tree, compared(tree, listing, read)) == plainly(tree, listing)


def test_every_finding_kind_occurs() -> None:
    """In one small world, so that the property above cannot be true of nothing."""
    tree = {"models/a": "x", "models/b": "y", "models/c": "xx", "models/d": ""}
    listing = [
        Told("models/a", "x", disabled=False, hashed=True, sized=True),
        Told("models/b", "x", disabled=False, hashed=True, sized=True),
        Told("models/c", "xx", disabled=True, hashed=True, sized=True),
        Told("models/away", "xx", disabled=False, hashed=True, sized=True),
        Told("models/else", "yy", disabled=False, hashed=True, sized=True),
        Told("models/what", "", disabled=False, hashed=False, sized=False),
    ]

    assert Counter(each.kind for each in compared(tree, listing, set())) == Counter(FindingKind)


@given(trees, st.lists(tellings, max_size=8))
def test_only_files_of_matching_size_are_hashed(tree: dict[str, str], listing: list[Told]) -> None:
    comparison = Comparison(LocalFile((1, p), p, len(content), None) for p, content in tree.items())

    wanted = {
        file.model_path
        for number, told in enumerate(listing)
        for file in comparison.unhashed(as_record(number, told))
    }

    sizes = {len(told.content) for told in listing if told.hashed and told.sized}
    any_size = any(told.hashed and not told.sized for told in listing)
    assert wanted == {p for p, content in tree.items() if any_size or len(content) in sizes}
