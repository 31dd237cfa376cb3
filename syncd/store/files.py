"""What is on disk as last judged, what the catalog holds as far as we know, and the roots."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from syncd.core.files.search_paths import PathKey
from syncd.store.db import Database
from syncd.store.jobs import Jobs
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
"""Rows read at a time."""

_UPSERT = (
    f"INSERT INTO file (root_id, rel_path, {', '.join(FINGERPRINT_COLUMNS)}, verdict, reason,"
    " model_path, clash_key, judged_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (root_id, rel_path) DO UPDATE SET size = excluded.size,"
    " mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, dev = excluded.dev,"
    " inode = excluded.inode, verdict = excluded.verdict, reason = excluded.reason,"
    " model_path = excluded.model_path, clash_key = excluded.clash_key,"
    " judged_at = excluded.judged_at"
)
_ENTANGLED = (
    "SELECT EXISTS (SELECT 1 FROM job WHERE (root_id, rel_path) >= (?1, ?2)"
    " AND (root_id, rel_path) <= (?3, ?4) AND state IN ('queued', 'leased', 'failed', 'cancelled'))"
    " OR EXISTS (SELECT 1 FROM file WHERE (root_id, rel_path) >= (?1, ?2)"
    " AND (root_id, rel_path) <= (?3, ?4) AND verdict = 'conflict')"
)

_Row = tuple[Any, ...]
"""What ``_UPSERT`` takes."""

_KEY = itemgetter(0, 1)
"""Root and path of a row."""


@dataclass(frozen=True, slots=True)
class RootRow:
    """
    A root as its last whole walk left it.

    Args:
        mounts: Its file systems, as ``scan.mounts_in``; empty before the first whole walk.
        rules: Digest of the rules that its files were judged by.
    """

    mounts: Mapping[str, Mount]
    held_model: bool
    scanned: bool
    rules: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that stands still, where it goes, and what no other file may have."""

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
    What became of wanted files: new *jobs*, *conflicts*, or neither, being in the catalog already.

    ``freed`` are files to be looked at afresh, because a conflict with one of these ended.
    """

    jobs: dict[PathKey, int] = field(default_factory=dict)
    conflicts: set[PathKey] = field(default_factory=set)
    freed: list[PathKey] = field(default_factory=list)


class KnownFiles:
    """
    The files of a root at or below a path (all of it by default) as last judged, in path order.

    Each is read once: what was passed over does not come again. Read in pages, so that a million
    files need no more memory than a thousand.
    """

    def __init__(self, db: Database, root_id: int, below: str = "") -> None:
        self._db = db
        self._root_id = root_id
        path = os.fsencode(below)
        # Bounds are made here: in SQL, X || Y is text, and text is less than any blob.
        self._after = path + b"/" if below else b""
        self._end = path + b"0" if below else None
        where = "SELECT * FROM file WHERE root_id = ? AND rel_path = ?"
        self._first = db.all(where, (root_id, path)) if below else []

    def __iter__(self) -> Iterator[KnownFile]:
        end = "" if self._end is None else " AND rel_path < :bound"
        return self._read(end, self._end)

    def pass_over(self, traces: Sequence[StatKey]) -> bool:
        """
        Pass over the next files if they are just *traces* and none of them is incomplete.

        Otherwise False, and nothing is passed over.
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
        """The next files up to *path*, that one included."""
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
    """The id of the root at *path*, else of the one that another spelling of it leads to."""
    row = db.one(
        "SELECT id FROM root WHERE type_key IS :type AND (path = :path OR real_path = :real)"
        " ORDER BY path <> :path LIMIT 1",
        {"path": os.fsencode(path), "real": os.fsencode(real_path), "type": type_key},
    )
    return None if row is None else int(row["id"])


def root_row_of(db: Database, row: Any) -> RootRow:
    """A row of the root table, with the root's mounts."""
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
    """The file, record and root tables."""

    def __init__(self, db: Database, jobs: Jobs) -> None:
        self._db = db
        self._jobs = jobs

    # -- roots -----------------------------------------------------------------------------------

    def root_id(
        self, path: str, *, real_path: str | None = None, type_key: str | None = None
    ) -> int:
        """
        The id of the root at *path*, given to it when it was first seen.

        Under another spelling that leads to the same *real_path* (*path* itself by default) a root
        keeps its id; two types in one directory are two roots.
        """
        real_path = real_path or path
        places = (os.fsencode(path), os.fsencode(real_path))
        with self._db.transaction():
            root_id = find_root(self._db, path, real_path, type_key)
            if root_id is None:
                return self._db.insert(
                    "INSERT INTO root (path, real_path, type_key) VALUES (?, ?, ?)",
                    (*places, type_key),
                )
            self._db.run(
                "UPDATE root SET path = ?, real_path = ?, watched = 1 WHERE id = ?",
                (*places, root_id),
            )
            return root_id

    def root(self, root_id: int) -> RootRow:
        """What is remembered of a root."""
        row = self._db.one("SELECT * FROM root WHERE id = ?", (root_id,))
        assert row is not None
        return root_row_of(self._db, row)

    def models_below(self, root_id: int, folders: Iterable[str]) -> dict[str, int]:
        """How many known files, those that the rules ignore left out, are below each of *folders*."""
        sql = (
            "SELECT count(*) AS n FROM file WHERE root_id = ? AND rel_path > ? AND rel_path < ?"
            " AND verdict <> 'ignored'"
        )
        # "0" is the byte after "/": this is everything below the folder.
        bounds = {
            folder: (os.fsencode(f"{folder}/"), os.fsencode(f"{folder}0")) for folder in folders
        }
        rows = {folder: self._db.one(sql, (root_id, *bound)) for folder, bound in bounds.items()}
        return {folder: 0 if row is None else row["n"] for folder, row in rows.items()}

    def mark_scanned(
        self,
        root_id: int,
        mounts: Mapping[str, Mount],
        now_ms: int,
        *,
        models: bool,
        rules: str = "",
    ) -> None:
        """A whole walk of the root ended, on these *mounts*, by these *rules*, having met a model or not."""
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
                        *map(os.fsencode, (each.source, each.root)),
                    )
                    for at, each in mounts.items()
                ],
            )

    def accept(self) -> None:
        """Forget the mounts of all roots, and that they held models: the next walk takes them as they are."""
        with self._db.transaction():
            self._db.run("DELETE FROM mount")
            self._db.run("UPDATE root SET held_model_at = NULL")

    def retire(self, configured: Collection[int], now_ms: int) -> None:
        """
        Forget the files of roots that are not watched any more, and what could not be read.

        Records stay, so a tree that only moved is adopted again without sending a byte. Permissions
        can be mended without a trace on the file itself, so a start looks again.
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
        """The files at or below a path (all of a root's by default) as last judged."""
        return KnownFiles(self._db, root_id, below)

    def judge(
        self, judged: Sequence[tuple[FoundFile, Verdict, str, str | None]], now_ms: int
    ) -> list[PathKey]:
        """
        Remember files that get no job: (file, verdict, reason, model_path where there is one).

        A live job of such a path is superseded, and a conflict that it was part of ends: the others
        of it are forgotten and returned, to be looked at afresh.
        """
        rows = [
            _row(found, verdict, reason, model_path, None, now_ms)
            for found, verdict, reason, model_path in judged
        ]
        freed: list[PathKey] = []
        with self._db.transaction():
            # Of a million new files none has a job or a conflict: one question for all tells that.
            entangled = self._is_entangled(rows)
            for (found, _, reason, _), row in zip(judged, rows, strict=True):
                if entangled and self._is_entangled([row]):
                    self._jobs.replace_live(found.root_id, found.rel_path, now_ms, reason=reason)
                    freed += self._leave_conflict(found.root_id, found.rel_path, None)
            self._db.run_many(_UPSERT, rows)
        return freed

    def admit(self, wanted: Iterable[Wanted], now_ms: int) -> Admission:
        """
        Wanted files stand still: remember them and queue their jobs, in one commit.

        Where another path would get the same place in the catalog, neither is uploaded: both become
        conflicts, each naming the other. A file that is in the catalog as it is gets no job.
        """
        admission = Admission()
        with self._db.transaction():
            for item in wanted:
                self._admit(item, admission, now_ms)
        return admission

    def refresh(self, found: FoundFile, now_ms: int) -> bool:
        """
        Only ctime moved under a live job: remember the new one, the worker compares the bytes.

        False, and nothing changed, where the path has no live job.
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
        The paths are no longer on disk; their live jobs are superseded.

        A file that was in conflict with a forgotten one is forgotten with it and returned, to be
        looked at afresh.
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
        """Forget why these paths get no job: the next look at them, or the next start, judges anew."""
        with self._db.transaction():
            self._db.run_many(
                "DELETE FROM file WHERE root_id = ? AND rel_path = ? AND verdict <> 'wanted'",
                [(root_id, os.fsencode(rel_path)) for root_id, rel_path in keys],
            )

    def mark_unreadable(self, root_id: int, rel_path: str, reason: str, now_ms: int) -> None:
        """The worker could not open the file; it is looked at again when its ctime moves."""
        with self._db.transaction():
            self._mark(root_id, rel_path, Verdict.UNREADABLE, reason, now_ms)

    def mark_incomplete(self, job: Job, reason: str, now_ms: int) -> None:
        """
        The worker found other bytes than there should be: its job is superseded, the file remembered.

        Nothing happens where the job is not the worker's any more.
        """
        with self._db.transaction():
            ours = self._db.one(
                "SELECT 1 FROM job WHERE id = ? AND state = 'leased' AND lease_owner = ?",
                (job.id, job.lease_owner),
            )
            if ours is not None:
                self._jobs.replace_live(job.root_id, job.rel_path, now_ms, reason=reason)
                self._mark(job.root_id, job.rel_path, Verdict.INCOMPLETE, reason, now_ms)

    # -- inside ----------------------------------------------------------------------------------

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
        self._remember(found, Verdict.WANTED, None, target.model_path, clash_key, now_ms)
        if not self._jobs.is_registered(found, target):
            job_id = self._jobs.enqueue(found, target, now_ms, wanted.priority)
            admission.jobs[wanted.key] = job_id

    def _is_entangled(self, rows: Sequence[_Row]) -> bool:
        """Has a path between the first and the last of *rows* a job that may go, or a conflict?"""
        if not rows:
            return False
        first, last = min(rows, key=_KEY), max(rows, key=_KEY)
        met = self._db.one(_ENTANGLED, (*_KEY(first), *_KEY(last)))
        return bool(met is not None and met[0])

    def _rivals(self, found: FoundFile, clash_key: str) -> list[KnownFile]:
        rows = self._db.all("SELECT * FROM file WHERE clash_key = ?", (clash_key,))
        ours = (found.root_id, found.rel_path)
        return [
            known for known in map(known_file_of, rows) if (known.root_id, known.rel_path) != ours
        ]

    def _leave_conflict(self, root_id: int, rel_path: str, clash_key: str | None) -> list[PathKey]:
        """Unless the path keeps its *clash_key*, forget whom it was in conflict with; the others."""
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
            self._db.run(
                "UPDATE file SET verdict = 'conflict', reason = ?, judged_at = ?"
                " WHERE root_id = ? AND rel_path = ?",
                (reason, now_ms, other.root_id, os.fsencode(other.rel_path)),
            )
        reason = _conflict_reason(self._seen_from(found.root_id, others[0]))
        self._jobs.replace_live(found.root_id, found.rel_path, now_ms, reason=reason)
        self._remember(found, Verdict.CONFLICT, reason, target.model_path, clash_key, now_ms)

    def _seen_from(self, root_id: int, file: FoundFile | KnownFile) -> str:
        """What tells *file* apart for somebody in a root: its path there, else its whole path."""
        if file.root_id == root_id:
            return file.rel_path
        row = self._db.one("SELECT path FROM root WHERE id = ?", (file.root_id,))
        assert row is not None
        return os.path.join(os.fsdecode(row["path"]), file.rel_path)

    def _remember(
        self,
        found: FoundFile,
        verdict: Verdict,
        reason: str | None,
        model_path: str | None,
        clash_key: str | None,
        now_ms: int,
    ) -> None:
        self._db.run(_UPSERT, _row(found, verdict, reason, model_path, clash_key, now_ms))


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
