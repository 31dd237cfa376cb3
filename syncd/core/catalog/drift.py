"""
Compare the catalog with the files on disk.

Records are compared one by one, as a listing yields them; only the files are kept in memory. A file is
hashed only when a record of the same size arrives.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from syncd.core.files.search_paths import PathKey
from syncd.types import Record

HASH_PREFIX = "sha256:"


class FindingKind(StrEnum):
    """The relation between a file and a record."""

    EQUAL = "equal"  # same path, same content
    LOCAL_ONLY = "local_only"  # no record has this content or this path
    CLOUD_ONLY = "cloud_only"  # no file has this content or this path
    OTHER_BYTES = "other_bytes"  # same path, different content
    OTHER_PATH = "other_path"  # same content, at a path without a file
    NO_KNOWLEDGE = "no_knowledge"  # the record does not contain a hash
    DISABLED = "disabled"  # the record is disabled


class Drift(StrEnum):
    """A change by others to the record of a local file."""

    MISSING = "missing"
    DISABLED = "disabled"
    MOVED = "moved"


REASONS: Mapping[Drift, str] = {
    Drift.MISSING: "its record was deleted from the catalog",
    Drift.DISABLED: "its record in the catalog was disabled",
    Drift.MOVED: "its record was given another path in the catalog",
}
_AGAIN = " To upload it again: syncd retry, with its path."
ADVICE: Mapping[Drift, str] = {
    Drift.MISSING: f"If this was intended, remove or exclude the file.{_AGAIN}",
    Drift.DISABLED: f"Enable it in the cloud, or remove the file or exclude it.{_AGAIN}",
    Drift.MOVED: f"Move the file to that path, or give the record its path back.{_AGAIN}",
}


def oldest(duplicates: Iterable[Record]) -> Record:
    """
    Return the oldest of several records with the same path and content, which is the one to keep.

    If a record has no date, or several have the same one, the smallest id decides.
    """
    listed = list(duplicates)
    dated = all(record.created_at is not None for record in listed)
    return min(listed, key=lambda record: (record.created_at if dated else "", record.id))


@dataclass(slots=True)
class LocalFile:
    """A file that should be in the catalog; ``sha256`` is None until it is hashed."""

    key: PathKey
    model_path: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A record, a file, or both. A disabled record has a file only if no other record represents it."""

    kind: FindingKind
    record: Record | None = None
    file: LocalFile | None = None

    @property
    def is_drift(self) -> bool:
        if self.kind is FindingKind.DISABLED:
            return self.file is not None
        return self.kind is not FindingKind.EQUAL

    @property
    def model_path(self) -> str:
        if self.record is not None and self.record.model_path is not None:
            return self.record.model_path
        return "" if self.file is None else self.file.model_path


def sha256_of(record: Record) -> str | None:
    digits = (record.file_hash or "").removeprefix(HASH_PREFIX)
    return digits if record.file_hash and digits != record.file_hash else None


def is_disabled(record: Record) -> bool:
    return record.model_status == "disabled"


class Comparison:
    """Compares files (each model_path once) with the records of a listing, one after another."""

    def __init__(self, files: Iterable[LocalFile]) -> None:
        self._by_path = {file.model_path: file for file in files}
        self._by_hash: defaultdict[str, list[LocalFile]] = defaultdict(list)
        self._unhashed: defaultdict[int, list[LocalFile]] = defaultdict(list)
        for file in self._by_path.values():
            if file.sha256 is None:
                self._unhashed[file.size].append(file)
            else:
                self._by_hash[file.sha256].append(file)
        self._matched: set[str] = set()
        self._equal: set[str] = set()
        self._disabled: list[tuple[Record, LocalFile]] = []

    def file_at(self, model_path: str | None) -> LocalFile | None:
        return self._by_path.get(model_path or "")

    def unhashed(self, record: Record) -> list[LocalFile]:
        """Return the files that must be hashed before *record* can be added."""
        if sha256_of(record) is None:
            return []
        if record.file_size is None:
            return [file for files in self._unhashed.values() for file in files]
        return list(self._unhashed.get(record.file_size, ()))

    def set_hash(self, file: LocalFile, sha256: str) -> None:
        self._unhashed[file.size].remove(file)
        file.sha256 = sha256
        self._by_hash[sha256].append(file)

    def add(self, record: Record) -> Finding | None:
        """Compare *record*. Return None if the result is known only after the last record."""
        file, sha256 = self.file_at(record.model_path), sha256_of(record)
        if is_disabled(record):
            if file is None or _same_path_kind(record, file, sha256) is FindingKind.OTHER_BYTES:
                return Finding(FindingKind.DISABLED, record)
            self._disabled.append((record, file))
            return None
        if file is not None:
            self._matched.add(file.model_path)
            kind = _same_path_kind(record, file, sha256)
            if kind is FindingKind.EQUAL:
                self._equal.add(file.model_path)
            return Finding(kind, record, file)
        if sha256 is None:
            return Finding(FindingKind.NO_KNOWLEDGE, record)
        elsewhere = self._by_hash.get(sha256, [])
        if not elsewhere:
            return Finding(FindingKind.CLOUD_ONLY, record)
        self._matched.update(file.model_path for file in elsewhere)
        return Finding(FindingKind.OTHER_PATH, record, elsewhere[0])

    def finish(self) -> Iterator[Finding]:
        for record, file in self._disabled:
            needed = file.model_path not in self._equal
            self._matched.add(file.model_path)
            yield Finding(FindingKind.DISABLED, record, file if needed else None)
        for file in self._by_path.values():
            if file.model_path not in self._matched:
                yield Finding(FindingKind.LOCAL_ONLY, file=file)


def _same_path_kind(record: Record, file: LocalFile, sha256: str | None) -> FindingKind:
    if record.file_size not in (None, file.size):
        return FindingKind.OTHER_BYTES
    if sha256 is None:
        return FindingKind.NO_KNOWLEDGE
    return FindingKind.EQUAL if sha256 == file.sha256 else FindingKind.OTHER_BYTES
