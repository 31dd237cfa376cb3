"""
The queries of ``syncd status``; they run next to the writer.

They are separate from ``reports`` so that ``syncd status`` imports little and starts fast.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from syncd.formatting import printable
from syncd.states import FileState, HeldClass, HoldKind, State, UploadState, Verdict
from syncd.store.db import Database, Queries


class FileReport(NamedTuple):
    """
    The state of one file on disk. Times are Unix milliseconds, sizes bytes.

    ``root_type`` is the type of all files of the root, None below ``models_dir``.
    """

    root: str
    root_type: str | None
    path: str
    size: int
    state: FileState
    reason: str | None
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
        """The path to display: relative to ``models_dir``, absolute elsewhere."""
        return self.path if self.root_type is None else f"{self.root}/{self.path}"


class RootReport(NamedTuple):
    """One watched directory; ``model_type`` is that of all its files, None for ``models_dir``."""

    path: str
    model_type: str | None
    scanned_at: int | None


class Amount(NamedTuple):
    """A number of files and their total bytes."""

    files: int
    bytes: int


class SkippedFiles(NamedTuple):
    """The files that one rule ignores; ``example`` is one of them (as ``FileReport.shown``)."""

    files: int
    reason: str
    example: str


class NextTry(NamedTuple):
    """A file that is retried at ``run_after``, after ``attempt`` attempts."""

    path: str
    run_after: int
    attempt: int
    reason: str | None


class HoldRow(NamedTuple):
    """An active hold."""

    kind: HoldKind
    since: int
    reason: str
    advice: str | None
    probe_at: int
    probes: int

    @property
    def needs_operator(self) -> bool:
        """Whether an operator must act to end it."""
        return self.kind is HoldKind.OPERATOR


LATEST = """
  LEFT JOIN job ON job.id = (
       SELECT max(id) FROM job AS latest
        WHERE latest.root_id = file.root_id
          AND latest.rel_path = file.rel_path)
  LEFT JOIN record ON record.model_path = job.model_path AND record.sha256 = job.sha256
   AND record.record_id = job.record_id
"""

SELECT = f"""
SELECT root.path AS root, root.type_key, file.root_id, file.rel_path, file.size, file.mtime_ns,
       file.ctime_ns, file.dev, file.inode, file.verdict, file.reason,
       file.model_path, job.state, job.held_class, job.sha256, job.record_id, job.adopted,
       job.attempt, job.run_after, job.last_error, job.last_advice, job.last_kind, job.part_count,
       job.id AS job_id, job.created_at, job.updated_at, job.storage_key, job.stored_at,
       job.part_size, job.priority, file.judged_at, record.drift,
       (SELECT count(*) FROM part WHERE part.job_id = job.id) AS parts_done
  FROM file
  JOIN root ON root.id = file.root_id
{LATEST}"""
FILES = f"{SELECT} ORDER BY root.id, file.rel_path"
_REGISTERED = "file.verdict = 'wanted' AND job.state = 'done' AND record.drift IS NULL"
_STUCK = (
    "file.verdict <> 'wanted' OR job.state IN ('failed', 'cancelled')"
    " OR (job.state = 'queued' AND job.held_class = 'large')"
    " OR (job.state = 'done' AND record.drift IS NOT NULL)"
)
"""Files that syncd cannot bring into the catalog without help."""


class Outline(Queries):
    """Read-only queries about the whole store."""

    def roots(self) -> list[RootReport]:
        """The watched directories."""
        rows = self._db.all("SELECT * FROM root WHERE watched = 1 ORDER BY id")
        return [
            RootReport(printable(os.fsdecode(row["path"])), row["type_key"], row["scanned_at"])
            for row in rows
        ]

    def holds(self) -> list[HoldRow]:
        """Return the active holds."""
        return holds_in(self._db)

    def files(self) -> Iterator[FileReport]:
        """Yield every file on disk as last judged, by path; names are printable."""
        for row in self._db.all(FILES):
            yield file_report(row)

    def in_catalog(self, most: int | None) -> list[FileReport]:
        """Return at most *most* files in the catalog, by path; None: all."""
        rows = self._db.all(
            f"{SELECT} WHERE {_REGISTERED} ORDER BY root.id, file.rel_path LIMIT ?",
            (-1 if most is None else most,),
        )
        return list(map(file_report, rows))

    def not_in_catalog(self, on_the_way: int | None) -> list[FileReport]:
        """
        Return the files that are neither in the catalog nor ignored: first those that are stuck,
        then those that are queued, waiting or uploading; each group by path.

        Args:
            on_the_way: At most this many of the second group; None: all. In a backfill these are
                nearly all files, and reporting each takes most of the time.
        """
        sql = (
            f"{SELECT} WHERE file.verdict <> 'ignored' AND ({_REGISTERED}) IS NOT TRUE"
            f" AND (({_STUCK}) IS TRUE) = ? ORDER BY root.id, file.rel_path LIMIT ?"
        )
        most = -1 if on_the_way is None else on_the_way
        return list(map(file_report, (*self._db.all(sql, (1, -1)), *self._db.all(sql, (0, most)))))

    def skipped(self) -> list[SkippedFiles]:
        """Return the files that each rule ignores, most files first."""
        rows = self._db.all(
            "SELECT count(*) AS files, reason, min(rel_path) AS rel_path, root.path,"
            " root.type_key FROM file JOIN root ON root.id = file.root_id"
            " WHERE verdict = 'ignored' GROUP BY reason ORDER BY files DESC, reason"
        )
        return [SkippedFiles(row["files"], row["reason"] or "", shown(row, row)) for row in rows]

    def amounts(self) -> dict[str, Amount]:
        """Return the number and bytes of the files in each state that occurs."""
        files, size = Counter[str](), Counter[str]()
        for row in self._db.all(
            "SELECT verdict, state, held_class, last_kind, drift, count(*) AS files,"
            f" sum(file.size) AS bytes FROM file {LATEST}"
            " GROUP BY verdict, state, held_class, last_kind, drift"
        ):
            state = file_state(row)
            files[state] += row["files"]
            size[state] += row["bytes"]
        return {state: Amount(files[state], size[state]) for state in files}

    def next_tries(self, most: int) -> list[NextTry]:
        """Return the files that are retried soonest; names are printable."""
        rows = self._db.all(
            "SELECT rel_path, run_after, attempt, last_error FROM job WHERE state = 'queued'"
            " AND held_class IS NULL AND last_kind IS NOT NULL ORDER BY run_after LIMIT ?",
            (most,),
        )
        return [
            NextTry(
                printable(os.fsdecode(row["rel_path"])),
                row["run_after"],
                row["attempt"],
                row["last_error"],
            )
            for row in rows
        ]

    def oldest_waiting_at(self) -> int | None:
        """Return when the oldest queued job that is not held was created."""
        at: int | None = self._db.value(
            "SELECT min(created_at) FROM job WHERE state = 'queued' AND held_class IS NULL"
        )
        return at

    def last_success_at(self) -> int | None:
        """Return when a file was last registered or found in the catalog."""
        at: int | None = self._db.value("SELECT max(registered_at) FROM record")
        return at

    def uploads(self) -> Counter[UploadState]:
        """Count the multipart uploads in each state."""
        rows = self._db.all("SELECT state, count(*) AS n FROM upload GROUP BY state")
        return Counter({UploadState(row["state"]): row["n"] for row in rows})

    def abandoned_uploads(self) -> int:
        """Count the multipart uploads that the server had no way to abort."""
        return self.uploads()[UploadState.ABANDONED]


def holds_in(db: Database) -> list[HoldRow]:
    """Return the active holds, oldest first."""
    return [hold_of(row) for row in db.all("SELECT * FROM hold ORDER BY since")]


def hold_of(row: Any) -> HoldRow:
    return HoldRow(**{**dict(row), "kind": HoldKind(row["kind"])})


def shown(root: Any, file: Any) -> str:
    """Return the path to display for a file's row: ``FileReport.shown``."""
    rel_path = os.fsdecode(file["rel_path"])
    if root["type_key"] is not None:
        rel_path = os.path.join(os.fsdecode(root["path"]), rel_path)
    return printable(rel_path)


def file_state(row: Any) -> FileState:
    return state_of(row) if row["verdict"] == Verdict.WANTED else FileState(row["verdict"])


def file_report(row: Any) -> FileReport:
    wanted = row["verdict"] == Verdict.WANTED
    state = file_state(row)
    reason, advice = (row["last_error"] if wanted else row["reason"]), row["last_advice"]
    if state is FileState.DRIFT:
        from syncd.core.catalog import drift  # rare

        reason, advice = drift.REASONS[row["drift"]], drift.ADVICE[row["drift"]]
    return FileReport(
        root=printable(os.fsdecode(row["root"])),
        root_type=row["type_key"],
        path=printable(os.fsdecode(row["rel_path"])),
        size=row["size"],
        state=state,
        reason=reason,
        advice=advice if wanted or state is FileState.UNREADABLE else None,
        model_path=row["model_path"],
        sha256=row["sha256"] if wanted else None,
        record_id=row["record_id"] if wanted else None,
        adopted=bool(row["adopted"]),
        parts_done=row["parts_done"] or 0,
        parts=row["part_count"],
        attempt=row["attempt"] or 0,
        run_after=row["run_after"] if state in (FileState.QUEUED, FileState.WAITING) else None,
    )


def state_of(row: Any) -> FileState:
    """The state of a wanted file, by its latest job."""
    match row["state"]:
        case State.DONE:
            return FileState.DRIFT if row["drift"] else FileState.REGISTERED
        case State.LEASED:
            return FileState.UPLOADING
        case State.FAILED:
            return FileState.FAILED
        case State.CANCELLED:
            return FileState.CANCELLED
        case State.QUEUED if row["held_class"] == HeldClass.LARGE:
            return FileState.NEEDS_SIGN_IN
        case State.QUEUED if row["held_class"] or row["last_kind"]:
            return FileState.WAITING
        case _:
            return FileState.QUEUED
