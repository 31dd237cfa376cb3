"""The queries of the other commands; they run beside the writer."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from syncd.core.catalog import drift
from syncd.core.files.search_paths import PathKey
from syncd.store.files import RootRow, find_root, root_row_of
from syncd.store.outline import (
    FILES,
    LATEST,
    SELECT,
    FileReport,
    Outline,
    file_report,
    file_state,
    shown,
    state_of,
)
from syncd.store.rows import fingerprint_of
from syncd.types import FileState, Fingerprint, Record, Verdict, printable

if TYPE_CHECKING:
    from syncd.core.catalog.plan import Known
    from syncd.core.catalog.plan_file import Owned


@dataclass(frozen=True, slots=True)
class Named:
    """A file: root and path, the path to display, its state and its latest job."""

    key: PathKey
    shown: str
    state: FileState
    job_id: int | None


class EventReport(NamedTuple):
    """
    One event of a job; ``from_state`` is None for its creation. Times are Unix milliseconds.

    ``root``, ``root_type`` and ``path`` are as in ``FileReport``.
    """

    at: int
    root: str
    root_type: str | None
    path: str
    event: str | None
    from_state: str | None
    to_state: str
    reason: str | None

    @property
    def shown(self) -> str:
        """The path to display, as ``FileReport.shown``."""
        return self.path if self.root_type is None else f"{self.root}/{self.path}"


class JobReport(NamedTuple):
    """The job that brings a file into the catalog. Times are Unix milliseconds."""

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

    ``job`` is its latest job, if it had one; ``registered_at`` is when its record was last created
    or found.
    """

    file: FileReport
    fingerprint: Fingerprint
    judged_at: int
    job: JobReport | None
    registered_at: int | None


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered file; names as ``os.fsdecode`` returns them."""

    root: str
    root_type: str | None
    rel_path: str
    fingerprint: Fingerprint
    sha256: str
    record_id: str
    model_path: str


_ONE = f"{SELECT} WHERE file.root_id = ? AND file.rel_path = ?"
# In the order of ``claim``: due jobs by priority and size, then the others by due time.
_QUEUE = f"""{SELECT} WHERE file.verdict = 'wanted' AND job.state IN ('leased', 'queued')
 ORDER BY job.state, job.held_class IS NOT NULL, max(job.run_after, :now), job.priority, job.size,
          job.id
"""
_EVENTS = """
SELECT job_event.*, job.rel_path, root.path AS root, root.type_key
  FROM job_event JOIN job ON job.id = job_event.job_id JOIN root ON root.id = job.root_id
"""


class Report(Outline):
    """Read-only queries about the store, a file or a record."""

    def counts(self) -> dict[str, int]:
        """Return the number of files in each state that occurs."""
        return {state: amount.files for state, amount in self.amounts().items()}

    def places(self, named: str | None = None) -> list[Named]:
        """
        Return every file, or the *named* one, or all below the folder of that name.

        A name is a path below ``models_dir``, or an absolute one below any watched directory.
        """
        found: list[Named] = []
        for root in self._db.all("SELECT * FROM root WHERE watched = 1 ORDER BY id"):
            below = "" if named is None else rel_path_in(root, named)
            if below is not None:
                found += self._places_in(root, os.fsencode(below))
        return found

    def _places_in(self, root: Any, below: bytes) -> Iterator[Named]:
        where = "file.root_id = :root"
        if below:
            where += (
                " AND (file.rel_path = :path OR (file.rel_path > :first AND file.rel_path < :end))"
            )
        for row in self._db.all(
            "SELECT file.rel_path, verdict, job.id AS job_id, state, held_class, last_kind, drift"
            f" FROM file {LATEST} WHERE {where} ORDER BY file.rel_path",
            {"root": root["id"], "path": below, "first": below + b"/", "end": below + b"0"},
        ):
            key = root["id"], os.fsdecode(row["rel_path"])
            yield Named(key, shown(root, row), file_state(row), row["job_id"])

    def root_paths(self, named: str) -> list[PathKey]:
        """Return the *named* path relative to each watched directory that may contain it."""
        roots = self._db.all("SELECT * FROM root WHERE watched = 1 ORDER BY id")
        found = [(root["id"], rel_path_in(root, named)) for root in roots]
        return [(root_id, rel_path) for root_id, rel_path in found if rel_path is not None]

    def unfinished(self) -> int:
        """Count the jobs that are queued or leased, without held ones."""
        unfinished = "state IN ('queued', 'leased') AND held_class IS NULL"
        return int(self._db.value(f"SELECT count(*) FROM job WHERE {unfinished}"))

    def bundled(self) -> int:
        """Count the stored files that only wait for another file of their bundle."""
        bundled = "verdict = 'wanted' AND state = 'queued' AND held_class = 'bundle'"
        return int(self._db.value(f"SELECT count(*) FROM file {LATEST} WHERE {bundled}"))

    def known(
        self, root: str, *, real_path: str | None = None, type_key: str | None = None
    ) -> "dict[str, Known]":
        """Return what is known about each path of a root, by raw rel_path; see ``Files.root_id``."""
        from syncd.core.catalog.plan import Known  # only a dry run needs it

        root_id = find_root(self._db, root, real_path or root, type_key)
        return {
            os.fsdecode(row["rel_path"]): Known(
                fingerprint_of(row),
                report.state,
                report.reason,
                report.model_path,
                report.sha256,
                report.record_id,
            )
            for row in self._db.all(FILES)
            if row["root_id"] == root_id
            for report in [file_report(row)]
        }

    def root(
        self, root: str, *, real_path: str | None = None, type_key: str | None = None
    ) -> RootRow | None:
        """Return what is known about a root, None if it was never watched; see ``Files.root_id``."""
        root_id = find_root(self._db, root, real_path or root, type_key)
        row = self._db.one("SELECT * FROM root WHERE id = ?", (root_id,))
        return None if row is None else root_row_of(self._db, row)

    def file(
        self, root: str, rel_path: str, *, real_path: str | None = None, type_key: str | None = None
    ) -> FileDetail | None:
        """Return one file of a root by its raw name, None if no scan has found it; see ``Files.root_id``."""
        root_id = find_root(self._db, root, real_path or root, type_key)
        row = self._db.one(_ONE, (root_id, os.fsencode(rel_path)))
        if row is None:
            return None
        registered_at = self._db.value(
            "SELECT registered_at FROM record WHERE model_path = ? AND sha256 = ?",
            (row["model_path"], row["sha256"]),
        )
        return FileDetail(
            file_report(row),
            fingerprint_of(row),
            row["judged_at"],
            None
            if row["job_id"] is None
            else JobReport(row["job_id"], *(row[name] for name in JobReport._fields[1:])),
            registered_at,
        )

    def events_of(
        self,
        root: str,
        rel_path: str,
        *,
        real_path: str | None = None,
        type_key: str | None = None,
    ) -> list[EventReport]:
        """Return the events of the jobs of one path, oldest first."""
        root_id = find_root(self._db, root, real_path or root, type_key)
        rows = self._db.all(
            f"{_EVENTS} WHERE job.root_id = ? AND job.rel_path = ? ORDER BY job_event.id",
            (root_id, os.fsencode(rel_path)),
        )
        return list(map(_event_report, rows))

    def history(self, *, since_ms: int, most: int) -> list[EventReport]:
        """Return the latest *most* events since *since_ms*, oldest first."""
        rows = self._db.all(
            f"{_EVENTS} WHERE job_event.at >= ? ORDER BY job_event.id DESC LIMIT ?",
            (since_ms, most),
        )
        return list(map(_event_report, reversed(rows)))

    def queue(self, now_ms: int) -> Iterator[FileReport]:
        """Yield the files that are queued or uploading, in the order of the queue."""
        for row in self._db.all(_QUEUE, {"now": now_ms}):
            yield file_report(row)

    def paths(self, most: int) -> Iterator[tuple[str, str | None, str]]:
        """Yield (root, its type, raw rel_path) of at most *most* files."""
        rows = self._db.all(
            "SELECT root.path, root.type_key, known.rel_path FROM (SELECT root_id, rel_path FROM file"
            " UNION SELECT root_id, rel_path FROM job) AS known"
            " JOIN root ON root.id = known.root_id LIMIT ?",
            (most,),
        )
        for row in rows:
            yield os.fsdecode(row["path"]), row["type_key"], os.fsdecode(row["rel_path"])

    def registered(self) -> Iterator[Registered]:
        """Yield the files on disk that are in the catalog, by path."""
        for row in self._db.all(FILES):
            if row["verdict"] == Verdict.WANTED and state_of(row) is FileState.REGISTERED:
                yield Registered(
                    os.fsdecode(row["root"]),
                    row["type_key"],
                    os.fsdecode(row["rel_path"]),
                    fingerprint_of(row),
                    row["sha256"],
                    row["record_id"],
                    row["model_path"],
                )

    def cloud(self) -> tuple[str, str | None] | None:
        """Return the base URL and team of the records; None if there is none yet."""
        row = self._db.one("SELECT base_url, team_id FROM cloud")
        return None if row is None else (row["base_url"], row["team_id"])

    def newest_records(self, most: int) -> list[str]:
        """
        Return at most *most* ids of records that should be in the catalog, newest first.

        Records that others deleted are left out.
        """
        rows = self._db.all(
            "SELECT record_id FROM record WHERE retired_at IS NULL AND retire_sent_at IS NULL"
            " AND drift IS NOT 'missing' ORDER BY registered_at DESC LIMIT ?",
            (most,),
        )
        return [row["record_id"] for row in rows]

    def own_records(self) -> list[Record]:
        """Return the records that this machine registered or adopted, as a listing shows them."""
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

    def owned(self) -> "list[Owned]":
        """Return the records that this machine registered and did not delete, by path."""
        from syncd.core.catalog.plan_file import Owned  # only prune needs it

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


def rel_path_in(root: Any, named: str) -> str | None:
    """Return the *named* path relative to a root's row; None if it lies elsewhere."""
    path = os.path.normpath(named)
    if path == ".." or path.startswith("../"):
        return None
    if not os.path.isabs(path):
        return "" if path == "." else path
    for column in ("path", "real_path"):
        folder = os.fsdecode(root[column]).rstrip("/")
        if path == folder:
            return ""
        if path.startswith(folder + "/"):
            return path[len(folder) + 1 :]
    return None


def _event_report(row: Any) -> EventReport:
    return EventReport(
        row["at"],
        printable(os.fsdecode(row["root"])),
        row["type_key"],
        printable(os.fsdecode(row["rel_path"])),
        row["event"],
        row["from_state"],
        row["to_state"],
        row["reason"],
    )
