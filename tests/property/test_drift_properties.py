"""The comparison of files and records finds every difference, in any order of the listing."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.catalog.drift import Comparison, Finding, FindingKind, LocalFile
from syncd.types import Record

PATHS = ("models/a", "models/b", "models/c", "models/d")
CONTENTS = ("", "x", "y", "xx")
"""Few contents, so that many match. The hash of a content is its letters, its size their number."""


@dataclass(frozen=True)
class Entry:
    """A record in the listing: its content, and which members are missing."""

    path: str | None
    content: str
    disabled: bool
    hashed: bool
    sized: bool


entries = st.builds(
    Entry,
    path=st.sampled_from((*PATHS, None)),
    content=st.sampled_from(CONTENTS),
    disabled=st.booleans(),
    hashed=st.sampled_from((True, True, True, False)),
    sized=st.sampled_from((True, True, True, False)),
)
trees = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(CONTENTS))


def digits(content: str) -> str:
    return content.ljust(64, "0")


def as_record(number: int, entry: Entry) -> Record:
    return Record(
        id=str(number),
        model_path=entry.path,
        model_type=None,
        display_name=None,
        storage_key=None,
        file_size=len(entry.content) if entry.sized else None,
        file_hash=f"sha256:{digits(entry.content)}" if entry.hashed else None,
        model_status="disabled" if entry.disabled else "active",
    )


def compared(tree: dict[str, str], listing: list[Entry], hashed: set[str]) -> list[Finding]:
    """Return the findings if the files in *hashed* are already hashed."""
    files = [
        LocalFile((1, path), path, len(content), digits(content) if path in hashed else None)
        for path, content in tree.items()
    ]
    comparison, found = Comparison(files), []
    for number, entry in enumerate(listing):
        record = as_record(number, entry)
        for file in comparison.unhashed(record):
            comparison.set_hash(file, digits(tree[file.model_path]))
        if (finding := comparison.add(record)) is not None:
            found.append(finding)
    return [*found, *comparison.finish()]


def expected(
    tree: dict[str, str], listing: list[Entry]
) -> Counter[tuple[FindingKind, str, str, bool]]:
    """Return (kind, record, path, is drift) of each finding, computed by brute force."""
    found: list[tuple[FindingKind, str, str, bool]] = []
    met = set()
    equal = {t.path for t in listing if not t.disabled and is_equal(tree, t)}
    for number, entry in enumerate(listing):
        kind, file = one(tree, entry)
        if kind is FindingKind.DISABLED:
            met |= {file} if file else set()
            file = "" if file in equal else file
        else:
            met |= {file} if file else set()
        if kind is FindingKind.OTHER_PATH:
            met |= {path for path, content in tree.items() if content == entry.content}
            file = "somewhere"
        drift = bool(file) if kind is FindingKind.DISABLED else kind is not FindingKind.EQUAL
        found.append((kind, str(number), file, drift))
    found += [(FindingKind.LOCAL_ONLY, "", path, True) for path in tree if path not in met]
    return Counter(found)


def is_equal(tree: dict[str, str], entry: Entry) -> bool:
    return entry.hashed and tree.get(entry.path or "") == entry.content


def differs(content: str, entry: Entry) -> bool:
    """Return whether the record certainly has different content."""
    return (entry.hashed and entry.content != content) or (
        entry.sized and len(entry.content) != len(content)
    )


def one(tree: dict[str, str], entry: Entry) -> tuple[FindingKind, str]:
    path = entry.path if entry.path in tree else None
    if entry.disabled:
        return FindingKind.DISABLED, path if path and not differs(tree[path], entry) else ""
    if path is not None:
        if differs(tree[path], entry):
            return FindingKind.OTHER_BYTES, path
        return (FindingKind.EQUAL if entry.hashed else FindingKind.NO_KNOWLEDGE), path
    if not entry.hashed:
        return FindingKind.NO_KNOWLEDGE, ""
    return (
        FindingKind.OTHER_PATH if entry.content in tree.values() else FindingKind.CLOUD_ONLY
    ), ""


def counted(
    tree: dict[str, str], found: list[Finding]
) -> Counter[tuple[FindingKind, str, str, bool]]:
    rows = []
    for finding in found:
        file = "" if finding.file is None else finding.file.model_path
        if finding.kind is FindingKind.OTHER_PATH:
            assert finding.file is not None
            assert finding.record is not None
            assert f"sha256:{digits(tree[file])}" == finding.record.file_hash
            file = "somewhere"
        rows.append(
            (finding.kind, finding.record.id if finding.record else "", file, finding.is_drift)
        )
    return Counter(rows)


@given(trees, st.lists(entries, max_size=8), st.sets(st.sampled_from(PATHS)))
def test_streamed_comparison_equals_full_comparison(
    tree: dict[str, str], listing: list[Entry], hashed: set[str]
) -> None:
    assert counted(tree, compared(tree, listing, hashed)) == expected(tree, listing)


@given(trees, st.lists(entries, max_size=8))
def test_only_files_of_matching_size_are_hashed(tree: dict[str, str], listing: list[Entry]) -> None:
    comparison = Comparison(LocalFile((1, p), p, len(content), None) for p, content in tree.items())

    wanted = {
        file.model_path
        for number, entry in enumerate(listing)
        for file in comparison.unhashed(as_record(number, entry))
    }

    sizes = {len(entry.content) for entry in listing if entry.hashed and entry.sized}
    any_size = any(entry.hashed and not entry.sized for entry in listing)
    assert wanted == {p for p, content in tree.items() if any_size or len(content) in sizes}
