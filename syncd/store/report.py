"""What ``status`` and the final summary show, read without disturbing the writer."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from syncd.core import drift
from syncd.core.agenda import Owned
from syncd.core.preview import Known
from syncd.model import Record, Verdict, printable
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
DRIFT = "drift"  # it was registered, and others did something to its record

FILE_STATES = (
    REGISTERED, UPLOADING, QUEUED, WAITING, NEEDS_SIGN_IN, FAILED,
    DRIFT, "refused", "conflict", "unreadable", "incomplete", "ignored", "shadowed",
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


_FILES = """
SELECT root.path AS root, root.type_key, file.root_id, file.rel_path, file.size, file.mtime_ns,
       file.ctime_ns, file.dev, file.inode, file.verdict, file.reason,
       file.model_path, job.state, job.held_class, job.sha256, job.record_id, job.adopted,
       job.attempt, job.run_after, job.last_error, job.last_advice, job.last_kind, job.part_count,
       record.drift,
       (SELECT count(*) FROM part WHERE part.job_id = job.id) AS parts_done
  FROM file
  JOIN root ON root.id = file.root_id
  LEFT JOIN job ON job.id = (
       SELECT max(id) FROM job AS latest
        WHERE latest.root_id = file.root_id
          AND latest.rel_path = file.rel_path)
  LEFT JOIN record ON record.model_path = job.model_path AND record.sha256 = job.sha256
   AND record.record_id = job.record_id
 ORDER BY root.id, file.rel_path
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
                fingerprint_of(row),
                report.state,
                report.why,
                report.model_path,
                report.sha256,
                report.record_id,
            )
            for row in self._db.all(_FILES)
            if row["root_id"] == root_id
            for report in [_file_report(row)]
        }

    def own_records(self) -> list[Record]:
        """The records that this machine registered or adopted, as a listing would show them."""
        rows = self._db.all("SELECT * FROM record ORDER BY model_path, sha256")
        return [
            Record(
                id=row["record_id"],
                model_path=row["model_path"],
                model_type=None,
                display_name=None,
                storage_key=row["storage_key"],
                file_size=row["size"],
                file_hash=f"{drift.HASH_PREFIX}{row['sha256']}",
                model_status="active" if row["retire_sent_at"] is None else "disabled",
            )
            for row in rows
        ]

    def owned(self) -> list[Owned]:
        """The records that this machine registered and did not delete, by path."""
        rows = self._db.all(
            "SELECT record.*, root.path AS root FROM record JOIN root ON root.id = record.root_id"
            " WHERE adopted = 0 AND record_id NOT LIKE 'unknown:%' ORDER BY model_path, sha256"
        )
        return [
            Owned(
                row["record_id"],
                row["model_path"],
                row["sha256"],
                row["size"],
                os.fsdecode(row["root"]),
                os.fsdecode(row["rel_path"]),
                since=row["gone_at"] if row["replaced_at"] is None else row["replaced_at"],
                replaced=row["replaced_at"] is not None,
                retired_at=row["retired_at"],
            )
            for row in rows
        ]

    def recent_uploads(self, most: int = 20) -> list[tuple[int, int, int]]:
        """(began, ended, bytes) of the last files that were sent, in Unix milliseconds."""
        rows = self._db.all(
            "SELECT size, (SELECT max(at) FROM job_event WHERE job_id = job.id AND event = 'claim')"
            " AS began, (SELECT max(at) FROM job_event WHERE job_id = job.id AND event = 'finish')"
            " AS ended FROM job WHERE state = 'done' AND stored_at IS NOT NULL"
            " ORDER BY id DESC LIMIT ?",
            (most,),
        )
        return [(row["began"], row["ended"], row["size"]) for row in rows]

    def abandoned_uploads(self) -> int:
        """Multipart uploads that the server gave no way to abort."""
        row = self._db.one("SELECT count(*) AS n FROM upload WHERE state = 'abandoned'")
        return 0 if row is None else int(row["n"])


def _file_report(row: Any) -> FileReport:
    wanted = row["verdict"] == Verdict.WANTED
    state = _state(row) if wanted else row["verdict"]
    why, advice = (row["last_error"] if wanted else row["reason"]), row["last_advice"]
    if state == DRIFT:
        why, advice = drift.WHY[row["drift"]], drift.ADVICE[row["drift"]]
    return FileReport(
        root=printable(os.fsdecode(row["root"])),
        root_type=row["type_key"],
        path=printable(os.fsdecode(row["rel_path"])),
        size=row["size"],
        state=state,
        why=why,
        advice=advice if wanted or state == "unreadable" else None,
        model_path=row["model_path"],
        sha256=row["sha256"] if wanted else None,
        record_id=row["record_id"] if wanted else None,
        adopted=bool(row["adopted"]),
        parts_done=row["parts_done"] or 0,
        parts=row["part_count"],
        attempt=row["attempt"] or 0,
        run_after=row["run_after"] if state in (QUEUED, WAITING) else None,
    )


def _state(row: Any) -> str:
    match row["state"]:
        case "done":
            return DRIFT if row["drift"] else REGISTERED
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
