"""Files on disk as last judged, and the models directories."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from syncd.core.files.search_paths import PathKey
from syncd.store.db import Database
from syncd.store.jobs import JobQueue
from syncd.store.rows import FINGERPRINT_COLUMNS, fingerprint_values, known_file_of
from syncd.types import (
    FoundFile,
    Job,
    KnownFile,
    Mount,
    Priority,
    StatKey,
    Target,
    Verdict,
    printable,
)

PAGE = 10_000
"""Rows per query."""

_UPSERT = (
    f"INSERT OR REPLACE INTO file (root_id, rel_path, {', '.join(FINGERPRINT_COLUMNS)}, verdict,"
    " reason, model_path, clash_key, judged_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ENTANGLED = (
    "SELECT EXISTS (SELECT 1 FROM job WHERE (root_id, rel_path) >= (?1, ?2)"
    " AND (root_id, rel_path) <= (?3, ?4) AND state IN ('queued', 'leased', 'failed', 'cancelled'))"
    " OR EXISTS (SELECT 1 FROM file WHERE (root_id, rel_path) >= (?1, ?2)"
    " AND (root_id, rel_path) <= (?3, ?4) AND verdict = 'conflict')"
)

_Row = tuple[Any, ...]
"""The parameters of ``_UPSERT``."""

_KEY = itemgetter(0, 1)
"""Root and path of a row."""


@dataclass(frozen=True, slots=True)
class RootRow:
    """
    A root after its last complete scan.

    Args:
        mounts: Its file systems, as ``fs.mounts.mounts_in``; empty before the first complete scan.
        rules: The digest of the rules of that scan.
    """

    mounts: Mapping[str, Mount]
    held_model: bool
    scanned: bool
    rules: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A settled file, its target, and the key that no other file may have."""

    found: FoundFile
    target: Target
    clash_key: str
    priority: Priority = Priority.BACKFILL

    @property
    def key(self) -> PathKey:
        """Root and path."""
        return self.found.root_id, self.found.rel_path


@dataclass(slots=True)
class Admission:
    """
    The result of admitting files: new *jobs* and *conflicts*; files in the catalog are in neither.

    ``freed`` are files to examine again, because their conflict with one of these ended.
    """

    jobs: dict[PathKey, int] = field(default_factory=dict)
    conflicts: set[PathKey] = field(default_factory=set)
    freed: list[PathKey] = field(default_factory=list)


class KnownFiles:
    """
    The files of a root at or below a path (all of it by default) as last judged, in path order.

    Each file is read once, also if it is skipped. Reading in pages bounds the memory.
    """

    def __init__(self, db: Database, root_id: int, below: str = "") -> None:
        self._db = db
        self._root_id = root_id
        path = os.fsencode(below)
        # Compute bounds here: in SQL, X || Y is text, and text sorts before any blob.
        self._after = path + b"/" if below else b""
        self._end = path + b"0" if below else None
        where = "SELECT * FROM file WHERE root_id = ? AND rel_path = ?"
        self._first = db.all(where, (root_id, path)) if below else []

    def __iter__(self) -> Iterator[KnownFile]:
        end = "" if self._end is None else " AND rel_path < :bound"
        return self._read(end, self._end)

    def pass_over(self, traces: Sequence[StatKey]) -> bool:
        """
        Skip the next files if they are exactly *traces* and none of them is incomplete.

        Otherwise return False and skip nothing.
        """
        last = self._ordered(traces[-1][0])
        rows = self._db.tuples(
            "SELECT rel_path, size, mtime_ns, ctime_ns, inode FROM file WHERE root_id = ?"
            " AND rel_path > ? AND rel_path <= ? AND verdict <> 'incomplete'"
            " ORDER BY rel_path LIMIT ?",
            (self._root_id, self._after, last, len(traces) + 1),
        )
        if self._first or rows != traces:
            return False
        self._after = last
        return True

    def through(self, path: bytes) -> Iterator[KnownFile]:
        """Return the next files up to and including *path*."""
        yield from self._read(" AND rel_path <= :bound", self._ordered(path))
        self._after = path

    def _read(self, bounds: str, bound: bytes | None) -> Iterator[KnownFile]:
        yield from map(known_file_of, self._first)
        self._first = []
        while True:
            rows = self._db.all(
                f"SELECT * FROM file WHERE root_id = :root AND rel_path > :after{bounds}"
                " ORDER BY rel_path LIMIT :page",
                {"root": self._root_id, "after": self._after, "bound": bound, "page": PAGE},
            )
            self._after = rows[-1]["rel_path"] if rows else self._after
            yield from map(known_file_of, rows)
            if len(rows) < PAGE:
                return

    def _ordered(self, path: bytes) -> bytes:
        if path <= self._after:
            raise ValueError(f"out of path order: {path!r} after {self._after!r}")
        return path


def find_root(db: Database, path: str, real_path: str, type_key: str | None) -> int | None:
    """Return the id of the root at *path*, else of one with the same real path."""
    root_id: int | None = db.value(
        "SELECT id FROM root WHERE type_key IS :type AND (path = :path OR real_path = :real)"
        " ORDER BY path <> :path LIMIT 1",
        {"path": os.fsencode(path), "real": os.fsencode(real_path), "type": type_key},
    )
    return root_id


def root_row_of(db: Database, row: Any) -> RootRow:
    """Convert a row of the root table and add the root's mounts."""
    mounts = db.all("SELECT * FROM mount WHERE root_id = ?", (row["id"],))
    return RootRow(
        {os.fsdecode(mount["rel_path"]): _mount_of(mount) for mount in mounts},
        held_model=row["held_model_at"] is not None,
        scanned=row["scanned_at"] is not None,
        rules=row["rules"],
    )


def _mount_of(row: Any) -> Mount:
    return Mount(row["fs_type"], os.fsdecode(row["fs_source"]), os.fsdecode(row["fs_root"]))


class Files:
    """The file and root tables."""

    def __init__(self, db: Database, jobs: JobQueue) -> None:
        self._db = db
        self._jobs = jobs

    # -- roots -----------------------------------------------------------------------------------

    def root_id(
        self, path: str, *, real_path: str | None = None, type_key: str | None = None
    ) -> int:
        """
        Return the id of the root at *path*, creating it if needed.

        A root keeps its id under another path with the same *real_path* (*path* by default). One
        directory with two types is two roots.
        """
        real_path = real_path or path
        places = {"path": os.fsencode(path), "real_path": os.fsencode(real_path)}
        with self._db.transaction():
            root_id = find_root(self._db, path, real_path, type_key)
            if root_id is None:
                return self._db.insert("root", {**places, "type_key": type_key})
            self._db.run(
                "UPDATE root SET path = :path, real_path = :real_path, watched = 1 WHERE id = :id",
                {**places, "id": root_id},
            )
            return root_id

    def root(self, root_id: int) -> RootRow:
        """Return what is remembered about a root."""
        row = self._db.one("SELECT * FROM root WHERE id = ?", (root_id,))
        assert row is not None
        return root_row_of(self._db, row)

    def models_below(self, root_id: int, folders: Iterable[str]) -> dict[str, int]:
        """Count the known files below each of *folders*, without those that the rules ignore."""
        counts = {}
        for folder in folders:
            # "0" is the byte after "/", so the bounds enclose everything below the folder.
            counts[folder] = self._db.value(
                "SELECT count(*) FROM file WHERE root_id = ? AND rel_path > ? AND rel_path < ?"
                " AND verdict <> 'ignored'",
                (root_id, os.fsencode(f"{folder}/"), os.fsencode(f"{folder}0")),
            )
        return counts

    def mark_scanned(
        self,
        root_id: int,
        mounts: Mapping[str, Mount],
        now_ms: int,
        *,
        models: bool,
        rules: str = "",
    ) -> None:
        """Commit the end of a complete scan: its *mounts*, *rules* and whether it found a model."""
        with self._db.transaction():
            self._db.run(
                "UPDATE root SET scanned_at = ?, rules = ?,"
                " held_model_at = coalesce(held_model_at, ?) WHERE id = ?",
                (now_ms, rules, now_ms if models else None, root_id),
            )
            self._db.run("DELETE FROM mount WHERE root_id = ?", (root_id,))
            self._db.run_many(
                "INSERT INTO mount VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        root_id,
                        os.fsencode(at),
                        each.fs_type,
                        os.fsencode(each.source),
                        os.fsencode(each.root),
                    )
                    for at, each in mounts.items()
                ],
            )

    def accept(self) -> None:
        """Forget the mounts of all roots and that they held models; the next scan accepts any."""
        with self._db.transaction():
            self._db.run("DELETE FROM mount")
            self._db.run("UPDATE root SET held_model_at = NULL")

    def retire(self, configured: Collection[int], now_ms: int) -> None:
        """
        Forget the files of roots that are no longer configured, and unreadable files.

        Records stay, so a moved tree is adopted without sending a byte. Unreadable files are
        examined again at each start, because fixing a folder's permissions leaves no trace on them.
        """
        with self._db.transaction():
            marks = ", ".join("?" * len(configured))
            others = f"SELECT id FROM root WHERE id NOT IN ({marks})"
            for row in self._db.all(
                f"SELECT root_id, rel_path FROM file WHERE root_id IN ({others})",
                list(configured),
            ):
                self._jobs.replace_live(
                    row["root_id"],
                    os.fsdecode(row["rel_path"]),
                    now_ms,
                    reason="its models directory is not watched any more",
                )
            self._db.run(f"DELETE FROM file WHERE root_id IN ({others})", list(configured))
            self._db.run(
                "UPDATE root SET watched = 0, scanned_at = NULL, rules = NULL"
                f" WHERE id NOT IN ({marks})",
                list(configured),
            )
            self._db.run("DELETE FROM file WHERE verdict = 'unreadable'")

    # -- what is on disk -------------------------------------------------------------------------

    def known(self, root_id: int, below: str = "") -> KnownFiles:
        """Return the files at or below a path (the whole root by default) as last judged."""
        return KnownFiles(self._db, root_id, below)

    def judge(
        self, judged: Sequence[tuple[FoundFile, Verdict, str, str | None]], now_ms: int
    ) -> list[PathKey]:
        """
        Remember files that get no job: (file, verdict, reason, model_path if any).

        This supersedes live jobs of the paths and ends their conflicts. The other files of these
        conflicts are forgotten and returned; the caller must examine them again.
        """
        rows = [
            _row(found, verdict, reason, model_path, None, now_ms)
            for found, verdict, reason, model_path in judged
        ]
        freed: list[PathKey] = []
        with self._db.transaction():
            # New files have no job or conflict: one query for the whole range usually shows that.
            entangled = self._is_entangled(rows)
            for (found, _, reason, _), row in zip(judged, rows, strict=True):
                if entangled and self._is_entangled([row]):
                    self._jobs.replace_live(found.root_id, found.rel_path, now_ms, reason=reason)
                    freed += self._leave_conflict(found.root_id, found.rel_path, None)
            self._db.run_many(_UPSERT, rows)
        return freed

    def admit(self, wanted: Iterable[Wanted], now_ms: int) -> Admission:
        """
        Remember settled files and queue their jobs, in one commit.

        If another path has the same place in the catalog, both become conflicts that name each
        other, and neither is uploaded. A file that is already in the catalog gets no job.
        """
        admission = Admission()
        with self._db.transaction():
            for item in wanted:
                self._admit(item, admission, now_ms)
        return admission

    def refresh(self, found: FoundFile, now_ms: int) -> bool:
        """
        Remember a new ctime of a file with a live job, whose worker compares the bytes.

        Returns:
            False, and nothing changes, if the path has no live job.
        """
        with self._db.transaction():
            live = self._db.one(
                "SELECT 1 FROM job WHERE root_id = ? AND rel_path = ?"
                " AND state IN ('queued', 'leased')",
                (found.root_id, os.fsencode(found.rel_path)),
            )
            if live is None:
                return False
            self._db.run(
                "UPDATE file SET ctime_ns = ?, judged_at = ? WHERE root_id = ? AND rel_path = ?",
                (found.fingerprint.ctime_ns, now_ms, found.root_id, os.fsencode(found.rel_path)),
            )
            return True

    def forget(self, gone: Iterable[KnownFile], now_ms: int) -> list[PathKey]:
        """
        Forget paths that are no longer on disk and supersede their live jobs.

        Files in conflict with them are forgotten too and returned; the caller must examine them
        again.
        """
        freed: list[PathKey] = []
        with self._db.transaction():
            for known in gone:
                self._jobs.replace_live(
                    known.root_id, known.rel_path, now_ms, reason="the file is gone"
                )
                self._jobs.records.note_gone(known, now_ms)
                freed += self._leave_conflict(known.root_id, known.rel_path, None)
                self._db.run(
                    "DELETE FROM file WHERE root_id = ? AND rel_path = ?",
                    (known.root_id, os.fsencode(known.rel_path)),
                )
        return freed

    def judge_afresh(self, keys: Iterable[PathKey]) -> None:
        """Forget why these paths get no job, so that the next scan judges them again."""
        self._db.run_many(
            "DELETE FROM file WHERE root_id = ? AND rel_path = ? AND verdict <> 'wanted'",
            [(root_id, os.fsencode(rel_path)) for root_id, rel_path in keys],
        )

    def mark_unreadable(self, root_id: int, rel_path: str, reason: str, now_ms: int) -> None:
        """Mark a file that the worker could not open until its ctime changes."""
        with self._db.transaction():
            self._mark(root_id, rel_path, Verdict.UNREADABLE, reason, now_ms)

    def mark_incomplete(self, job: Job, reason: str, now_ms: int) -> None:
        """
        Supersede the job of a file that has other bytes than expected, and mark the file.

        Nothing happens if the worker's lease is no longer valid.
        """
        with self._db.transaction():
            if self._jobs.is_ours(job):
                self._jobs.replace_live(job.root_id, job.rel_path, now_ms, reason=reason)
                self._mark(job.root_id, job.rel_path, Verdict.INCOMPLETE, reason, now_ms)

    # -- internals -------------------------------------------------------------------------------

    def _mark(
        self, root_id: int, rel_path: str, verdict: Verdict, reason: str, now_ms: int
    ) -> None:
        self._db.run(
            "UPDATE file SET verdict = ?, reason = ?, judged_at = ?"
            " WHERE root_id = ? AND rel_path = ?",
            (verdict, reason, now_ms, root_id, os.fsencode(rel_path)),
        )

    def _admit(self, wanted: Wanted, admission: Admission, now_ms: int) -> None:
        found, target, clash_key = wanted.found, wanted.target, wanted.clash_key
        admission.freed += self._leave_conflict(*wanted.key, clash_key)
        if others := self._rivals(found, clash_key):
            self._conflict(found, target, clash_key, others, now_ms)
            theirs = [(other.root_id, other.rel_path) for other in others]
            admission.conflicts.update((wanted.key, *theirs))
            for key in theirs:
                admission.jobs.pop(key, None)
            return
        row = _row(found, Verdict.WANTED, None, target.model_path, clash_key, now_ms)
        self._db.run(_UPSERT, row)
        if not self._jobs.is_registered(found, target):
            job_id = self._jobs.enqueue(found, target, now_ms, wanted.priority)
            admission.jobs[wanted.key] = job_id

    def _is_entangled(self, rows: Sequence[_Row]) -> bool:
        """Return whether a path from the first to the last of *rows* has a live job or a conflict."""
        if not rows:
            return False
        first, last = min(rows, key=_KEY), max(rows, key=_KEY)
        return bool(self._db.value(_ENTANGLED, (*_KEY(first), *_KEY(last))))

    def _rivals(self, found: FoundFile, clash_key: str) -> list[KnownFile]:
        rows = self._db.all(
            "SELECT * FROM file WHERE clash_key = ? AND (root_id, rel_path) <> (?, ?)",
            (clash_key, found.root_id, os.fsencode(found.rel_path)),
        )
        return list(map(known_file_of, rows))

    def _leave_conflict(self, root_id: int, rel_path: str, clash_key: str | None) -> list[PathKey]:
        """End the path's conflict unless its *clash_key* stays; return the other files of it."""
        rows = self._db.all(
            "DELETE FROM file WHERE verdict = 'conflict' AND clash_key ="
            " (SELECT clash_key FROM file WHERE root_id = :root AND rel_path = :path"
            "     AND verdict = 'conflict' AND clash_key IS NOT :kept) RETURNING root_id, rel_path",
            {"root": root_id, "path": os.fsencode(rel_path), "kept": clash_key},
        )
        freed = [(row["root_id"], os.fsdecode(row["rel_path"])) for row in rows]
        return [key for key in freed if key != (root_id, rel_path)]

    def _conflict(
        self,
        found: FoundFile,
        target: Target,
        clash_key: str,
        others: list[KnownFile],
        now_ms: int,
    ) -> None:
        for other in others:
            reason = _conflict_reason(self._seen_from(other.root_id, found))
            self._jobs.replace_live(other.root_id, other.rel_path, now_ms, reason=reason)
            self._mark(other.root_id, other.rel_path, Verdict.CONFLICT, reason, now_ms)
        reason = _conflict_reason(self._seen_from(found.root_id, others[0]))
        self._jobs.replace_live(found.root_id, found.rel_path, now_ms, reason=reason)
        row = _row(found, Verdict.CONFLICT, reason, target.model_path, clash_key, now_ms)
        self._db.run(_UPSERT, row)

    def _seen_from(self, root_id: int, file: FoundFile | KnownFile) -> str:
        """Return the path of *file* in the root, or its absolute path if it is elsewhere."""
        if file.root_id == root_id:
            return file.rel_path
        root = self._db.value("SELECT path FROM root WHERE id = ?", (file.root_id,))
        return os.path.join(os.fsdecode(root), file.rel_path)


def _row(
    found: FoundFile,
    verdict: Verdict,
    reason: str | None,
    model_path: str | None,
    clash_key: str | None,
    now_ms: int,
) -> _Row:
    return (
        found.root_id,
        os.fsencode(found.rel_path),
        *fingerprint_values(found.fingerprint),
        verdict,
        reason,
        model_path,
        clash_key,
        now_ms,
    )


def _conflict_reason(other: str) -> str:
    return (
        f"{printable(other)} would get the same place in the catalog (upper and lower case count as "
        "one). Rename one of the two, or map it under [naming.map]; neither is uploaded until then."
    )
