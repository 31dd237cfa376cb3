"""What the commands show, read without disturbing the writer."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from syncd.core.preview import Known
from syncd.model import Fingerprint, Verdict, printable
from syncd.store.db import Database
from syncd.store.files import find_root
from syncd.store.holds import HoldRow, Holds
from syncd.store.rows import fingerprint_of

REGISTERED = "registered"
QUEUED = "queued"
WAITING = "waiting"
UPLOADING = "uploading"
NEEDS_SIGN_IN = "needs_sign_in"
FAILED = "failed"

FILE_STATES = (
    REGISTERED, UPLOADING, QUEUED, WAITING, NEEDS_SIGN_IN, FAILED,
    "refused", "conflict", "unreadable", "incomplete", "ignored", "shadowed",
)  # fmt: skip
"""Every file on disk is in exactly one of these."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """
    One file on disk: where it stands and why. Times are Unix milliseconds, sizes bytes.

    ``root_type`` is the type that the root gives to all its files, None below ``models_dir``.
    """

    root: str
    root_type: str | None
    path: str
    size: int
    state: str
    why: str | None
    advice: str | None
    model_path: str | None
    sha256: str | None
    record_id: str | None
    adopted: bool
    parts_done: int
    parts: int | None
    attempt: int
    run_after: int | None

    @property
    def shown(self) -> str:
        """What a person is told: the path below ``models_dir``, elsewhere all of it."""
        return self.path if self.root_type is None else f"{self.root}/{self.path}"


@dataclass(frozen=True, slots=True)
class RootReport:
    """One watched directory; ``model_type`` is that of all its files, None for ``models_dir``."""

    path: str
    model_type: str | None
    scanned_at: int | None


@dataclass(frozen=True, slots=True)
class EventReport:
    """One change of owner of a job; ``from_state`` is None where it was born. Unix milliseconds."""

    at: int
    path: str
    event: str | None
    from_state: str | None
    to_state: str
    why: str | None


@dataclass(frozen=True, slots=True)
class JobReport:
    """What is known of the job that brings a file into the catalog. Times are Unix milliseconds."""

    id: int
    created_at: int
    updated_at: int
    storage_key: str | None
    stored_at: int | None
    part_size: int | None
    last_kind: str | None


@dataclass(frozen=True, slots=True)
class FileDetail:
    """
    Everything about one file.

    ``job`` is its latest one, None where it never had one; ``registered_at`` is when its record was
    last made or found.
    """

    file: FileReport
    fingerprint: Fingerprint
    judged_at: int
    job: JobReport | None
    registered_at: int | None


@dataclass(frozen=True, slots=True)
class Registered:
    """A file whose bytes the catalog holds as far as we know; names as ``os.fsdecode`` makes them."""

    root: str
    root_type: str | None
    rel_path: str
    fingerprint: Fingerprint
    sha256: str
    record_id: str
    model_path: str


_SELECT = """
SELECT root.path AS root, root.type_key, file.root_id, file.rel_path, file.size, file.mtime_ns,
       file.ctime_ns, file.dev, file.inode, file.verdict, file.reason,
       file.model_path, job.state, job.held_class, job.sha256, job.record_id, job.adopted,
       job.attempt, job.run_after, job.last_error, job.last_advice, job.last_kind, job.part_count,
       job.id AS job_id, job.created_at, job.updated_at, job.storage_key, job.stored_at,
       job.part_size, job.priority, file.judged_at,
       (SELECT count(*) FROM part WHERE part.job_id = job.id) AS parts_done
  FROM file
  JOIN root ON root.id = file.root_id
  LEFT JOIN job ON job.id = (
       SELECT max(id) FROM job AS latest
        WHERE latest.root_id = file.root_id
          AND latest.rel_path = file.rel_path)
"""
_FILES = f"{_SELECT} ORDER BY root.id, file.rel_path"
_ONE = f"{_SELECT} WHERE file.root_id = ? AND file.rel_path = ?"
# As ``Jobs.claim`` takes them: what may start now by its priority and size, the rest as it comes due.
_QUEUE = f"""{_SELECT} WHERE file.verdict = 'wanted' AND job.state IN ('leased', 'queued')
 ORDER BY job.state, job.held_class IS NOT NULL, max(job.run_after, :now), job.priority, job.size,
          job.id
"""
_EVENTS = """
SELECT job_event.*, job.rel_path FROM job_event JOIN job ON job.id = job_event.job_id
"""


class Report:
    """Read-only questions about the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def roots(self) -> list[RootReport]:
        """The watched directories."""
        rows = self._db.all("SELECT * FROM root WHERE watched = 1 ORDER BY id")
        return [
            RootReport(printable(os.fsdecode(row["path"])), row["type_key"], row["scanned_at"])
            for row in rows
        ]

    def holds(self) -> list[HoldRow]:
        """What everything waits for."""
        return Holds(self._db).all()

    def files(self) -> Iterator[FileReport]:
        """Every file on disk as last judged, by path; names are printable."""
        for row in self._db.all(_FILES):
            yield _file_report(row)

    def counts(self) -> Counter[str]:
        """How many files are in each state."""
        return Counter(file.state for file in self.files())

    def unfinished(self) -> int:
        """Jobs that are queued or under way; those that wait for a sign-in or a bundle are neither."""
        row = self._db.one(
            "SELECT count(*) AS n FROM job"
            " WHERE state IN ('queued', 'leased') AND held_class IS NULL"
        )
        return 0 if row is None else int(row["n"])

    def known(
        self, root: str, *, real_path: str | None = None, type_key: str | None = None
    ) -> dict[str, Known]:
        """What the store says of each path of a root, by raw rel_path; see ``Files.root_id``."""
        root_id = find_root(self._db, root, real_path or root, type_key)
        return {
            os.fsdecode(row["rel_path"]): Known(
                fingerprint_of(row), report.state, report.why, report.model_path
            )
            for row in self._db.all(_FILES)
            if row["root_id"] == root_id
            for report in [_file_report(row)]
        }

    def file(
        self, root: str, rel_path: str, *, real_path: str | None = None, type_key: str | None = None
    ) -> FileDetail | None:
        """One file of a root by its raw names, or None where no walk has met it yet."""
        root_id = find_root(self._db, root, real_path or root, type_key)
        row = self._db.one(_ONE, (root_id, os.fsencode(rel_path)))
        if row is None:
            return None
        registered = self._db.one(
            "SELECT registered_at FROM record WHERE model_path = ? AND sha256 = ?",
            (row["model_path"], row["sha256"]),
        )
        return FileDetail(
            _file_report(row),
            fingerprint_of(row),
            row["judged_at"],
            None if row["job_id"] is None else _job_report(row),
            None if registered is None else registered["registered_at"],
        )

    def events_of(
        self,
        root: str,
        rel_path: str,
        *,
        real_path: str | None = None,
        type_key: str | None = None,
    ) -> list[EventReport]:
        """What happened to the jobs of one path, oldest first."""
        root_id = find_root(self._db, root, real_path or root, type_key)
        rows = self._db.all(
            f"{_EVENTS} WHERE job.root_id = ? AND job.rel_path = ? ORDER BY job_event.id",
            (root_id, os.fsencode(rel_path)),
        )
        return list(map(_event_report, rows))

    def history(self, *, since_ms: int, most: int) -> list[EventReport]:
        """The latest *most* events since *since_ms*, oldest first."""
        rows = self._db.all(
            f"{_EVENTS} WHERE job_event.at >= ? ORDER BY job_event.id DESC LIMIT ?",
            (since_ms, most),
        )
        return list(map(_event_report, reversed(rows)))

    def queue(self, now_ms: int) -> Iterator[FileReport]:
        """The files that are on their way or wait for their turn, in the order of their turns."""
        for row in self._db.all(_QUEUE, {"now": now_ms}):
            yield _file_report(row)

    def paths(self, most: int) -> Iterator[tuple[str, str | None, str]]:
        """(root, its type, rel_path) of at most so many files, by their raw names."""
        rows = self._db.all(
            "SELECT root.path, root.type_key, file.rel_path FROM file"
            " JOIN root ON root.id = file.root_id LIMIT ?",
            (most,),
        )
        for row in rows:
            yield os.fsdecode(row["path"]), row["type_key"], os.fsdecode(row["rel_path"])

    def registered(self) -> Iterator[Registered]:
        """The files on disk that are in the catalog, by path."""
        for row in self._db.all(_FILES):
            if row["verdict"] == Verdict.WANTED and _state(row) == REGISTERED:
                yield Registered(
                    os.fsdecode(row["root"]),
                    row["type_key"],
                    os.fsdecode(row["rel_path"]),
                    fingerprint_of(row),
                    row["sha256"],
                    row["record_id"],
                    row["model_path"],
                )

    def uploads(self) -> Counter[str]:
        """How many multipart uploads were left in each state."""
        rows = self._db.all("SELECT state, count(*) AS n FROM upload GROUP BY state")
        return Counter({row["state"]: row["n"] for row in rows})

    def team_id(self) -> str | None:
        """The team whose catalog this is about; None as long as only device keys were used."""
        row = self._db.one("SELECT team_id FROM cloud")
        return None if row is None else row["team_id"]

    def newest_records(self, most: int) -> list[str]:
        """Ids of records that are to stay in the catalog, at most so many, the newest first."""
        rows = self._db.all(
            "SELECT record_id FROM record WHERE retired_at IS NULL AND retire_sent_at IS NULL"
            " ORDER BY registered_at DESC LIMIT ?",
            (most,),
        )
        return [row["record_id"] for row in rows]

    def abandoned_uploads(self) -> int:
        """Multipart uploads that the server gave no way to abort."""
        return self.uploads()["abandoned"]


def _file_report(row: Any) -> FileReport:
    wanted = row["verdict"] == Verdict.WANTED
    state = _state(row) if wanted else row["verdict"]
    return FileReport(
        root=printable(os.fsdecode(row["root"])),
        root_type=row["type_key"],
        path=printable(os.fsdecode(row["rel_path"])),
        size=row["size"],
        state=state,
        why=(row["last_error"] if wanted else row["reason"]),
        advice=row["last_advice"] if wanted or state == "unreadable" else None,
        model_path=row["model_path"],
        sha256=row["sha256"] if wanted else None,
        record_id=row["record_id"] if wanted else None,
        adopted=bool(row["adopted"]),
        parts_done=row["parts_done"] or 0,
        parts=row["part_count"],
        attempt=row["attempt"] or 0,
        run_after=row["run_after"] if state in (QUEUED, WAITING) else None,
    )


def _job_report(row: Any) -> JobReport:
    return JobReport(
        row["job_id"],
        row["created_at"],
        row["updated_at"],
        row["storage_key"],
        row["stored_at"],
        row["part_size"],
        row["last_kind"],
    )


def _event_report(row: Any) -> EventReport:
    return EventReport(
        row["at"],
        printable(os.fsdecode(row["rel_path"])),
        row["event"],
        row["from_state"],
        row["to_state"],
        row["why"],
    )


def _state(row: Any) -> str:
    match row["state"]:
        case "done":
            return REGISTERED
        case "leased":
            return UPLOADING
        case "failed":
            return FAILED
        case "queued" if row["held_class"] == "large":
            return NEEDS_SIGN_IN
        case "queued" if row["held_class"]:
            return WAITING
        case "queued" if row["last_kind"]:
            return WAITING
        case _:
            return QUEUED
