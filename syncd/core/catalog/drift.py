"""
The catalog against the tree: what each has that the other has not, and what both have otherwise.

Records come one by one, as a listing yields them, and are told apart at once; only the files are
held in memory. A file's hash is needed first where a record of its size comes along, so that whoever
reads files reads no more of them than the comparison takes.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from syncd.core.files.search_paths import PathKey
from syncd.types import Record

HASH_PREFIX = "sha256:"


class Kind(StrEnum):
    """How a file and a record stand to each other."""

    EQUAL = "equal"  # one path, the same bytes
    LOCAL_ONLY = "local_only"  # no record has these bytes, or this path
    CLOUD_ONLY = "cloud_only"  # no file has these bytes, or this path
    OTHER_BYTES = "other_bytes"  # one path, other bytes
    OTHER_PATH = "other_path"  # the same bytes, at a path where no file is
    NO_KNOWLEDGE = "no_knowledge"  # the record does not tell what it holds
    DISABLED = "disabled"  # agents do not get it


class Drift(StrEnum):
    """What others did to a record that stands for a file here."""

    MISSING = "missing"
    DISABLED = "disabled"
    MOVED = "moved"


WHY: Mapping[Drift, str] = MappingProxyType(
    {
        Drift.MISSING: "its record was deleted from the catalog",
        Drift.DISABLED: "its record in the catalog was disabled",
        Drift.MOVED: "its record was given another path in the catalog",
    }
)
ADVICE: Mapping[Drift, str] = MappingProxyType(
    {
        Drift.MISSING: "Was that meant? Then remove the file or exclude it. To send it again: syncd "
        "retry, with its path.",
        Drift.DISABLED: "Enable it in the cloud, or remove the file or exclude it. To send it again: "
        "syncd retry, with its path.",
        Drift.MOVED: "Move the file to that path, or give the record its path back. To send it again: "
        "syncd retry, with its path.",
    }
)


def winner(twins: Iterable[Record]) -> Record:
    """
    Which of several records with one path and the same bytes stays: the oldest.

    Whoever asks, in whatever order the listing comes, gets the same one. Where a record does not
    tell its age, and among records of one age, the smallest id counts.
    """
    listed = list(twins)
    dated = all(record.created_at is not None for record in listed)
    return min(listed, key=lambda record: (record.created_at if dated else "", record.id))


@dataclass(slots=True)
class Local:
    """
    A file that is wanted in the catalog.

    Args:
        key: Its root and its path there.
        size: Bytes.
        sha256: 64 hex digits; None as long as nobody has read it.
    """

    key: PathKey
    model_path: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One record, one file, or the two that belong together.

    A disabled record has its file only where no other record stands for that.
    """

    kind: Kind
    record: Record | None = None
    file: Local | None = None

    @property
    def is_drift(self) -> bool:
        """Does it keep tree and catalog apart? (A disabled record that no file here needs does not.)"""
        if self.kind is Kind.DISABLED:
            return self.file is not None
        return self.kind is not Kind.EQUAL

    @property
    def model_path(self) -> str:
        """Where it is in the catalog, or would be; empty where the record does not tell."""
        if self.record is not None and self.record.model_path is not None:
            return self.record.model_path
        return "" if self.file is None else self.file.model_path


def sha256_of(record: Record) -> str | None:
    """The hex digits of the SHA-256 that a record claims; None if it claims none."""
    digits = (record.file_hash or "").removeprefix(HASH_PREFIX)
    return digits if record.file_hash and digits != record.file_hash else None


def is_disabled(record: Record) -> bool:
    """Is it out of force? A record that does not say is taken to be in force."""
    return record.model_status == "disabled"


class Comparison:
    """
    Takes the records of a listing one after the other.

    Args:
        files: Each model_path once.
    """

    def __init__(self, files: Iterable[Local]) -> None:
        self._by_path = {file.model_path: file for file in files}
        self._by_hash: defaultdict[str, list[Local]] = defaultdict(list)
        self._unread: defaultdict[int, list[Local]] = defaultdict(list)
        for file in self._by_path.values():
            if file.sha256 is None:
                self._unread[file.size].append(file)
            else:
                self._by_hash[file.sha256].append(file)
        self._met: set[str] = set()
        self._equal: set[str] = set()
        self._disabled: list[tuple[Record, Local]] = []

    def at(self, model_path: str | None) -> Local | None:
        """The file at that path."""
        return self._by_path.get(model_path or "")

    def unread(self, record: Record) -> list[Local]:
        """The files whose hash has to be learnt before *record* can be told apart."""
        if sha256_of(record) is None:
            return []
        if record.file_size is None:
            return [file for files in self._unread.values() for file in files]
        return list(self._unread.get(record.file_size, ()))

    def learn(self, file: Local, sha256: str) -> None:
        """The bytes of *file* were read."""
        self._unread[file.size].remove(file)
        file.sha256 = sha256
        self._by_hash[sha256].append(file)

    def add(self, record: Record) -> Finding | None:
        """What *record* is; None where only the end of the listing can tell."""
        file, sha256 = self.at(record.model_path), sha256_of(record)
        if is_disabled(record):
            return self._add_disabled(record, file, sha256)
        if file is not None:
            self._met.add(file.model_path)
            kind = _at_one_path(record, file, sha256)
            if kind is Kind.EQUAL:
                self._equal.add(file.model_path)
            return Finding(kind, record, file)
        if sha256 is None:
            return Finding(Kind.NO_KNOWLEDGE, record)
        elsewhere = self._by_hash.get(sha256, [])
        if not elsewhere:
            return Finding(Kind.CLOUD_ONLY, record)
        self._met.update(each.model_path for each in elsewhere)
        return Finding(Kind.OTHER_PATH, record, elsewhere[0])

    def rest(self) -> Iterator[Finding]:
        """After the last record: the disabled ones that waited, and the files that nobody met."""
        for record, file in self._disabled:
            needed = file.model_path not in self._equal
            self._met.add(file.model_path)
            yield Finding(Kind.DISABLED, record, file if needed else None)
        for file in self._by_path.values():
            if file.model_path not in self._met:
                yield Finding(Kind.LOCAL_ONLY, file=file)

    def _add_disabled(
        self, record: Record, file: Local | None, sha256: str | None
    ) -> Finding | None:
        if file is None or _at_one_path(record, file, sha256) is Kind.OTHER_BYTES:
            return Finding(Kind.DISABLED, record)
        self._disabled.append((record, file))
        return None


def _at_one_path(record: Record, file: Local, sha256: str | None) -> Kind:
    if record.file_size not in (None, file.size):
        return Kind.OTHER_BYTES
    if sha256 is None:
        return Kind.NO_KNOWLEDGE
    return Kind.EQUAL if sha256 == file.sha256 else Kind.OTHER_BYTES
