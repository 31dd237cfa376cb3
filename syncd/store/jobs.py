"""
The job queue: jobs, their facts and uploads, and every state change.

Each write to a leased job names the owner of the lease and raises ``LeaseLost`` if there is no such
row: the job was superseded, cancelled or taken over. A state change, its parts and its event are one
commit.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, TypedDict, Unpack

from syncd.core.jobs.states import advance
from syncd.errors import LeaseLost
from syncd.store.db import Database
from syncd.store.records import Records
from syncd.store.rows import FINGERPRINT_COLUMNS, fingerprint_values, job_of
from syncd.types import (
    Event,
    FileDigests,
    FoundFile,
    HeldClass,
    Job,
    Kind,
    Multipart,
    Part,
    Priority,
    State,
    Target,
    UploadState,
    printable,
)

_SELECT = "SELECT job.*, plan.leaves FROM job LEFT JOIN plan ON plan.job_id = job.id"


class Facts(TypedDict, total=False):
    """What `Jobs.note` commits; times are when a call was sent, None if it had no effect."""

    stored_at: int
    record_id: str
    adopted: bool
    body_sent_at: int | None
    complete_sent_at: int | None
    register_sent_at: int | None
    register_repeated_at: int | None


_UPLOAD_FACTS = (
    "storage_key", "upload_id", "part_size", "part_count",
    "body_sent_at", "complete_sent_at", "stored_at", "register_sent_at", "register_repeated_at",
)  # fmt: skip


_NOT_STORED = (
    "state IN ('queued', 'leased', 'failed', 'cancelled')"
    " AND stored_at IS NULL AND record_id IS NULL"
)
"""A file that is wanted, and whose bytes are not all in the store."""

IN_DOUBT = "state = 'superseded' AND register_sent_at IS NOT NULL AND record_id IS NULL"

CANCEL_ADVICE = "To send it after all: syncd retry, with its path"
_AMONG = " AND (:only IS NULL OR id IN (SELECT value FROM json_each(:only)))"
"""Of the jobs that may be claimed at all."""

LEASE_TTL_MS = 120_000
"""How far a lease reaches; renewed after a third of it."""


class Jobs:
    """The job table and what hangs on it. Times are Unix milliseconds, handed in by the caller."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.records = Records(db)

    # -- creating --------------------------------------------------------------------------------

    def enqueue(self, found: FoundFile, target: Target, now_ms: int, priority: Priority) -> int:
        """Add a job inside the caller's transaction; a live job of that path is superseded first."""
        self.replace_live(found.root_id, found.rel_path, now_ms, reason="the file changed")
        job_id = self._db.insert(
            f"INSERT INTO job (root_id, rel_path, {', '.join(FINGERPRINT_COLUMNS)}, model_path,"
            " model_type, file_name, display_name, bundle, state, priority, run_after, created_at,"
            " updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?)",
            (
                found.root_id,
                os.fsencode(found.rel_path),
                *fingerprint_values(found.fingerprint),
                target.model_path,
                target.model_type,
                target.file_name,
                target.display_name,
                target.bundle,
                priority,
                now_ms,
                now_ms,
                now_ms,
            ),
        )
        self._log(job_id, None, State.QUEUED, None, now_ms, None)
        return job_id

    def is_registered(self, found: FoundFile, target: Target) -> bool:
        """Return whether the last job of the path registered this file at this place."""
        row = self._db.one(
            f"{_SELECT} WHERE root_id = ? AND rel_path = ? ORDER BY job.id DESC LIMIT 1",
            (found.root_id, os.fsencode(found.rel_path)),
        )
        if row is None or row["state"] != State.DONE or row["model_path"] != target.model_path:
            return False
        if not job_of(row).fingerprint.same_file_as(found.fingerprint):
            return False
        return not self.records.is_leaving(row["record_id"])

    def is_cancelled(self, found: FoundFile) -> bool:
        """Return whether the path's last job was cancelled and the file has not changed since."""
        row = self._db.one(
            f"{_SELECT} WHERE root_id = ? AND rel_path = ? ORDER BY job.id DESC LIMIT 1",
            (found.root_id, os.fsencode(found.rel_path)),
        )
        if row is None or row["state"] != State.CANCELLED:
            return False
        return job_of(row).fingerprint.same_file_as(found.fingerprint)

    def take_up(self, found: FoundFile, target: Target, now_ms: int) -> int | None:
        """
        Make the unfinished job of this very file due at once, with its counters reset.

        Returns:
            Its id; None if the path's last job ended, or is for other bytes or another target.
        """
        with self._db.transaction():
            row = self._db.one(
                f"{_SELECT} WHERE root_id = ? AND rel_path = ? ORDER BY job.id DESC LIMIT 1",
                (found.root_id, os.fsencode(found.rel_path)),
            )
            if row is None or row["state"] not in (State.QUEUED, State.FAILED):
                return None
            job = job_of(row)
            if job.target != target or not job.fingerprint.same_file_as(found.fingerprint):
                return None
            self.retry_now(job.id, now_ms)
            return job.id

    # -- ownership -------------------------------------------------------------------------------

    def claim(
        self, owner: str, now_ms: int, ttl_ms: int, *, only: Collection[int] | None = None
    ) -> Job | None:
        """
        Take the smallest due job of the first priority that has one; None when none is due.

        Each claim is an owner of its own (*owner* and a number that never comes again), so a worker
        whose lease expired is not mistaken for the one that its process gave the job to next.

        Args:
            only: The ids of the jobs that may be claimed; None: all.
        """
        with self._db.transaction():
            row = self._db.one(
                "UPDATE job SET state = 'leased', attempt = attempt + 1, lease_owner = :owner || '#'"
                " || (SELECT max(id) FROM job_event), lease_expires_at = :expires, updated_at = :now"
                " WHERE id = (SELECT id FROM job WHERE state = 'queued' AND held_class IS NULL"
                f"             AND run_after <= :now{_AMONG} ORDER BY priority, size, id LIMIT 1)"
                " RETURNING id",
                {
                    "owner": owner,
                    "now": now_ms,
                    "expires": now_ms + ttl_ms,
                    "only": _json(only),
                },
            )
            if row is None:
                return None
            advance(State.QUEUED, Event.CLAIM)
            self._log(row["id"], State.QUEUED, State.LEASED, Event.CLAIM, now_ms, None)
            return self.get(row["id"])

    def in_doubt(self, model_path: str) -> list[Job]:
        """Superseded jobs that sent a register for *model_path* and never learned its outcome."""
        rows = self._db.all(f"{_SELECT} WHERE model_path = ? AND {IN_DOUBT}", (model_path,))
        return [job_of(row) for row in rows]

    def settle_doubt(self, job: Job, record_id: str | None, now_ms: int) -> None:
        """
        Note what became of the register of a superseded job, unless that is known already.

        Args:
            record_id: Its record, which is ours from now on; None if there is none.
        """
        with self._db.transaction():
            settled = self._db.one(
                "UPDATE job SET record_id = ?, register_sent_at = NULL"
                f" WHERE id = ? AND {IN_DOUBT} RETURNING id",
                (record_id, job.id),
            )
            if settled is not None and record_id is not None:
                self.records.note(job, record_id, now_ms, adopted=False)

    def renew(self, job: Job, now_ms: int, ttl_ms: int) -> None:
        """
        Extend the lease to *ttl_ms* from now.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        with self._db.transaction():
            self._write(job, {"lease_expires_at": now_ms + ttl_ms, "updated_at": now_ms})

    def next_due_ms(self, *, only: Collection[int] | None = None) -> int | None:
        """When the next queued job (of *only*) may start; None when none is queued."""
        row = self._db.one(
            "SELECT min(run_after) AS due FROM job WHERE state = 'queued' AND held_class IS NULL"
            f"{_AMONG}",
            {"only": _json(only)},
        )
        return None if row is None else row["due"]

    def start_over(self, now_ms: int) -> None:
        """
        Requeue failed jobs and reset the attempts of all queued jobs, because syncd was started.
        """
        self.requeue_failed(now_ms, reason="syncd was started")
        with self._db.transaction():
            self._db.run(
                "DELETE FROM job_attempt WHERE job_id IN (SELECT id FROM job WHERE state = 'queued')"
            )

    def expire_all(self, now_ms: int) -> int:
        """
        Give back all leased jobs; how many there are. Called at start, when their owner is dead.

        No lease is taken back while syncd runs. A worker that hangs on a dead disk may still send
        once the disk answers, so a second worker of its job would send the same file at the same
        time, and would hang on the same disk.
        """
        with self._db.transaction():
            rows = self._db.all("SELECT id FROM job WHERE state = 'leased'")
            for row in rows:
                self._db.run(
                    "UPDATE job SET state = ?, lease_owner = NULL, lease_expires_at = NULL,"
                    " run_after = ?, updated_at = ? WHERE id = ?",
                    (advance(State.LEASED, Event.EXPIRE), now_ms, now_ms, row["id"]),
                )
                self._log(row["id"], State.LEASED, State.QUEUED, Event.EXPIRE, now_ms, "owner died")
            return len(rows)

    def make_all_due(self, now_ms: int) -> None:
        """Let every queued job run now instead of after its own wait."""
        with self._db.transaction():
            self._db.run(
                "UPDATE job SET run_after = :now WHERE state = 'queued' AND run_after > :now",
                {"now": now_ms},
            )

    # -- facts -----------------------------------------------------------------------------------

    def get(self, job_id: int) -> Job:
        """The job with all its facts."""
        row = self._db.one(f"{_SELECT} WHERE job.id = ?", (job_id,))
        assert row is not None, "a job is not deleted while its id is in use"
        return job_of(row)

    def note(self, job: Job, now_ms: int, **facts: Unpack[Facts]) -> Job:
        """
        Commit facts or intents of a leased job; the job as it is then.

        Raises:
            LeaseLost: The job is no longer ours; nothing was written.
        """
        with self._db.transaction():
            self._write(job, {**facts, "updated_at": now_ms})
        return replace(job, **facts)

    def note_digests(self, job: Job, digests: FileDigests, now_ms: int) -> Job:
        """
        Commit what one read of the file found (with the fingerprint it was read under).

        Where only ctime had moved, the file as judged moves along: these are its bytes.
        """
        with self._db.transaction():
            values = dict(
                zip(FINGERPRINT_COLUMNS, fingerprint_values(job.fingerprint), strict=True)
            )
            self._write(job, {**values, "sha256": digests.sha256, "updated_at": now_ms})
            self._db.run(
                "INSERT INTO plan (job_id, leaves) VALUES (?, ?)"
                " ON CONFLICT (job_id) DO UPDATE SET leaves = excluded.leaves",
                (job.id, digests.leaves),
            )
            self._db.run(
                "UPDATE storage_key SET sha256 = ? WHERE job_id = ? AND sha256 IS NULL",
                (digests.sha256, job.id),
            )
            self._db.run(
                "UPDATE file SET ctime_ns = :ctime_ns WHERE root_id = :root AND rel_path = :path"
                " AND (size, mtime_ns, inode) = (:size, :mtime_ns, :inode)",
                {**values, "root": job.root_id, "path": os.fsencode(job.rel_path)},
            )
        return replace(job, sha256=digests.sha256, leaves=digests.leaves)

    def note_upload(self, job: Job, upload: Multipart, now_ms: int) -> Job:
        """
        Commit an opened multipart upload.

        Raises:
            LeaseLost: The job is no longer ours; the upload is noted as unwanted.
        """
        facts = {
            "upload_id": upload.upload_id,
            "part_size": upload.part_size,
            "part_count": upload.part_count,
        }
        try:
            with self._db.transaction():
                self._write(job, {**facts, "updated_at": now_ms})
                self._add_upload(job, upload, UploadState.OPEN, now_ms)
        except LeaseLost:
            with self._db.transaction():
                self._add_upload(job, upload, UploadState.UNWANTED, now_ms)
            raise
        return replace(job, **facts)  # type: ignore[arg-type]

    def _add_upload(self, job: Job, upload: Multipart, state: UploadState, now_ms: int) -> None:
        self._db.run(
            "INSERT INTO upload (upload_id, storage_key, job_id, state, opened_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (upload.upload_id, upload.storage_key, job.id, state, now_ms, now_ms),
        )

    def note_part(self, job: Job, part: Part, etag: str, leaves: bytes, now_ms: int) -> None:
        """A part is done once this is committed; *leaves* are the digests of what was sent."""
        with self._db.transaction():
            self._write(job, {"updated_at": now_ms})
            self._db.run(
                "INSERT INTO part (job_id, number, etag, leaves, sent_at) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (job_id, number)"
                " DO UPDATE SET etag = excluded.etag, leaves = excluded.leaves",
                (job.id, part.number, etag, leaves, now_ms),
            )

    def etags(self, job: Job) -> dict[int, str]:
        """Committed etags by part number, ascending."""
        rows = self._db.all(
            "SELECT number, etag FROM part WHERE job_id = ? ORDER BY number", (job.id,)
        )
        return {row["number"]: row["etag"] for row in rows}

    def sent_leaves(self, job: Job) -> dict[int, bytes]:
        """The digests of the leaves that went out with each acknowledged part, by its number."""
        rows = self._db.all("SELECT number, leaves FROM part WHERE job_id = ?", (job.id,))
        return {row["number"]: row["leaves"] for row in rows}

    def note_stored(self, job: Job, now_ms: int) -> Job:
        """The object is whole in the store; its multipart upload, if any, has ended."""
        with self._db.transaction():
            self._write(job, {"stored_at": now_ms, "updated_at": now_ms})
            self._end_upload(job, UploadState.COMPLETED, now_ms)
        return replace(job, stored_at=now_ms)

    def fresh_upload(self, job: Job, now_ms: int, *, gone: bool) -> Job:
        """Forget the upload, keep the plan: the next step presigns anew."""
        nothing: dict[str, Any] = dict.fromkeys(_UPLOAD_FACTS)
        with self._db.transaction():
            self._write(job, {"updated_at": now_ms})
            # A 404 to a repeated complete was taken for its success; the upload may still be open.
            self._end_upload(
                job,
                UploadState.GONE if gone else UploadState.UNWANTED,
                now_ms,
                of=(UploadState.OPEN, UploadState.COMPLETED),
            )
            self._void_upload(job.id)
        return replace(job, **nothing)

    def drop_parts(self, job: Job, now_ms: int) -> None:
        """Void the committed etags of a job whose upload the store disputes."""
        with self._db.transaction():
            self._write(job, {"updated_at": now_ms})
            self._db.run("DELETE FROM part WHERE job_id = ?", (job.id,))

    def note_key(self, job: Job, storage_key: str, now_ms: int) -> tuple[Job, bool]:
        """
        Commit a reserved storage key; the job, and whether the key may be used for its bytes.

        It may not where it was reserved before for other bytes, or for bytes that cannot be compared
        yet; nothing changes then. A multipart upload under an older key is given up.
        """
        with self._db.transaction():
            self._db.run(
                "INSERT OR IGNORE INTO storage_key (storage_key, job_id, sha256) VALUES (?, ?, ?)",
                (storage_key, job.id, job.sha256),
            )
            row = self._db.one("SELECT * FROM storage_key WHERE storage_key = ?", (storage_key,))
            assert row is not None
            unread = None in (job.sha256, row["sha256"])
            if row["job_id"] != job.id if unread else row["sha256"] != job.sha256:
                return job, False
            if storage_key == job.storage_key:
                return job, True
            facts: dict[str, Any] = {**dict.fromkeys(_UPLOAD_FACTS), "storage_key": storage_key}
            self._write(job, {**facts, "updated_at": now_ms})
            self._end_upload(job, UploadState.UNWANTED, now_ms)
            self._db.run("DELETE FROM part WHERE job_id = ?", (job.id,))
        return replace(job, **facts), True

    # -- ends ------------------------------------------------------------------------------------

    def finish(self, job: Job, record_id: str, now_ms: int, *, adopted: bool) -> bool:
        """
        The record is known: the job is done and the catalog's knowledge grows by one row.

        False if the file's ctime moved after the job's last look at it: what was known of the path
        is then forgotten, and the caller has to look again.
        """
        with self._db.transaction():
            self._end_upload(
                job, UploadState.UNWANTED, now_ms
            )  # still open only where bytes were adopted
            self._move(
                job,
                Event.FINISH,
                now_ms,
                reason="adopted" if adopted else "registered",
                record_id=record_id,
                adopted=adopted,
                last_error=None,
                last_advice=None,
                last_kind=None,
            )
            self.records.note(job, record_id, now_ms, adopted=adopted)
            unseen = self._db.run(
                "DELETE FROM file WHERE root_id = ? AND rel_path = ? AND ctime_ns <> ?",
                (job.root_id, os.fsencode(job.rel_path), job.fingerprint.ctime_ns),
            )
        return not unseen

    def retry(
        self,
        job: Job,
        now_ms: int,
        *,
        run_after: int,
        kind: Kind,
        reason: str,
        advice: str | None,
        free: bool,
    ) -> None:
        """Queue the job again for *run_after*; a *free* attempt is given back."""
        with self._db.transaction():
            self._move(
                job,
                Event.RETRY,
                now_ms,
                reason=reason,
                run_after=run_after,
                attempt=max(job.attempt - 1, 0) if free else job.attempt,
                last_error=reason,
                last_advice=advice,
                last_kind=kind,
            )

    def release(
        self,
        job: Job,
        now_ms: int,
        *,
        reason: str,
        held_class: HeldClass | None = None,
        advice: str | None = None,
        wait_ms: int = 0,
    ) -> None:
        """Give the job back untried: shutdown, a hold, or something that it has to wait for."""
        with self._db.transaction():
            self._move(
                job,
                Event.RELEASE,
                now_ms,
                reason=reason,
                run_after=now_ms + wait_ms,
                attempt=max(job.attempt - 1, 0),
                held_class=held_class,
                last_error=reason,
                last_advice=advice,
            )

    def release_owned(self, owner: str, now_ms: int) -> int:
        """Release all jobs that *owner* still holds; how many."""
        with self._db.transaction():
            rows = self._db.all(
                # As ``claim`` numbers them.
                "SELECT id FROM job WHERE state = 'leased'"
                " AND substr(lease_owner, 1, length(:owner) + 1) = :owner || '#'",
                {"owner": owner},
            )
            for row in rows:
                job = self.get(row["id"])
                self._move(
                    job,
                    Event.RELEASE,
                    now_ms,
                    reason="syncd was stopped",
                    run_after=now_ms,
                    attempt=max(job.attempt - 1, 0),
                )
            return len(rows)

    def reject(self, job: Job, now_ms: int, *, kind: Kind, reason: str, advice: str | None) -> None:
        """The job has failed; its upload, if any, is not wanted any more."""
        with self._db.transaction():
            self._end_upload(job, UploadState.UNWANTED, now_ms)
            self._move(
                job,
                Event.REJECT,
                now_ms,
                reason=reason,
                last_error=reason,
                last_advice=advice,
                last_kind=kind,
            )

    def supersede(self, job: Job, now_ms: int, *, reason: str) -> None:
        """
        End a job whose worker found that the file changed.

        The file's row is deleted with it, so that the next scan judges the file again even if it is
        then as it was before.
        """
        with self._db.transaction():
            self._end_upload(job, UploadState.UNWANTED, now_ms)
            self._db.run(
                "DELETE FROM file WHERE root_id = ? AND rel_path = ?",
                (job.root_id, os.fsencode(job.rel_path)),
            )
            self._move(job, Event.REPLACE, now_ms, reason=reason)

    def send_again(self, root_id: int, rel_path: str, now_ms: int) -> int | None:
        """
        Queue a registered file whose record others deleted, disabled or moved; the job's id.

        The old record is left to whoever did that. None, and nothing changed, where the path's last
        job did not end with a record.
        """
        with self._db.transaction():
            row = self._db.one(
                "SELECT job.id, record_id FROM job JOIN record USING (record_id) WHERE job.id ="
                " (SELECT max(id) FROM job WHERE root_id = ? AND rel_path = ?)"
                " AND job.state = 'done'",
                (root_id, os.fsencode(rel_path)),
            )
            if row is None:
                return None
            self.records.let_go(row["record_id"], now_ms)
            job = self.get(row["id"])
            found = FoundFile(root_id, rel_path, job.fingerprint, job.fingerprint.size)
            return self.enqueue(found, job.target, now_ms, Priority.BACKFILL)

    def replace_live(self, root_id: int, rel_path: str, now_ms: int, *, reason: str) -> bool:
        """Inside the caller's transaction: supersede the path's job, if one is not done with."""
        rows = self._db.all(
            f"{_SELECT} WHERE root_id = ? AND rel_path = ?"
            " AND state IN ('queued', 'leased', 'failed', 'cancelled')",
            (root_id, os.fsencode(rel_path)),
        )
        for job in map(job_of, rows):
            self._end_upload(job, UploadState.UNWANTED, now_ms)
            state = advance(job.state, Event.REPLACE)
            self._db.run(
                "UPDATE job SET state = ?, lease_owner = NULL, lease_expires_at = NULL,"
                " updated_at = ? WHERE id = ?",
                (state, now_ms, job.id),
            )
            self._log(job.id, job.state, state, Event.REPLACE, now_ms, reason)
        return bool(rows)

    def requeue_failed(
        self, now_ms: int, *, reason: str, only: Collection[int] | None = None
    ) -> int:
        """Give failed jobs (*only* these) another chance, with their counters reset; how many."""
        with self._db.transaction():
            failed = map(job_of, self._db.all(f"{_SELECT} WHERE state = 'failed'"))
            jobs = [job for job in failed if only is None or job.id in only]
            for job in jobs:
                self._requeue(job, now_ms, reason)
            return len(jobs)

    def _requeue(self, job: Job, now_ms: int, reason: str) -> None:
        if job.upload_id is not None and job.stored_at is None:
            self._void_upload(job.id)  # given up when the job ended: it is being aborted
        state = advance(job.state, Event.REQUEUE)
        self._db.run(
            "UPDATE job SET state = ?, run_after = ?, attempt = 0, updated_at = ? WHERE id = ?",
            (state, now_ms, now_ms, job.id),
        )
        self._db.run("DELETE FROM job_attempt WHERE job_id = ?", (job.id,))
        self._log(job.id, job.state, state, Event.REQUEUE, now_ms, reason)

    # -- operator commands -----------------------------------------------------------------------

    def retry_now(self, job_id: int, now_ms: int) -> bool:
        """
        Try a job that failed, was cancelled or waits again, now and with its counters reset.

        Returns:
            False, and nothing changed, if the job only waits for another file of its bundle.
        """
        with self._db.transaction():
            job = self.get(job_id)
            if job.state is State.QUEUED and job.held_class is HeldClass.BUNDLE:
                return False
            if job.state in (State.FAILED, State.CANCELLED):
                self._requeue(job, now_ms, "syncd retry")
            self._db.run(
                "UPDATE job SET run_after = ?, attempt = 0, updated_at = ?, last_kind = NULL,"
                " last_error = NULL, last_advice = NULL, held_class = NULL"
                " WHERE id = ? AND state = 'queued'",
                (now_ms, now_ms, job.id),
            )
            self._db.run("DELETE FROM job_attempt WHERE job_id = ?", (job.id,))
            return True

    def bump(self, job_id: int, now_ms: int) -> None:
        """Let a queued job be the next that is claimed."""
        with self._db.transaction():
            self._db.run(
                "UPDATE job SET priority = ?, run_after = ?, updated_at = ?"
                " WHERE id = ? AND state = 'queued'",
                (Priority.BUMPED, now_ms, now_ms, job_id),
            )

    def cancel(self, job_id: int, now_ms: int) -> None:
        """
        End an unfinished job and its upload; a worker that has its lease loses it.

        Its path gets no other job until the file changes or ``syncd retry`` is used.
        """
        with self._db.transaction():
            job = self.get(job_id)
            state = advance(job.state, Event.CANCEL)
            self._end_upload(job, UploadState.UNWANTED, now_ms)
            self._db.run(
                "UPDATE job SET state = ?, lease_owner = NULL, lease_expires_at = NULL,"
                " held_class = NULL, last_error = ?, last_advice = ?, last_kind = NULL,"
                " updated_at = ? WHERE id = ?",
                (state, "cancelled by syncd cancel", CANCEL_ADVICE, now_ms, job_id),
            )
            self._log(job_id, job.state, state, Event.CANCEL, now_ms, "syncd cancel")

    def make_due(self, job: Job, now_ms: int) -> None:
        """Let a queued job run now instead of after its own wait."""
        with self._db.transaction():
            self._db.run(
                "UPDATE job SET run_after = ?, updated_at = ? WHERE id = ? AND state = 'queued'",
                (now_ms, now_ms, job.id),
            )

    def not_stored(self, job: Job) -> str | None:
        """Another file of the job's bundle that is wanted and not stored yet, if there is one."""
        mate = self._db.one(
            "SELECT min(rel_path) AS first FROM job INDEXED BY job_by_bundle"
            f" WHERE root_id = ? AND bundle = ? AND {_NOT_STORED}",
            (job.root_id, job.target.bundle),
        )
        return None if mate is None or mate["first"] is None else os.fsdecode(mate["first"])

    def free_bundles(self, now_ms: int) -> int:
        """Let the files run on that waited for others of their bundle; how many."""
        with self._db.transaction():
            return self._db.run(
                "UPDATE job SET held_class = NULL, run_after = ?, updated_at = ?"
                " WHERE held_class = 'bundle' AND state = 'queued' AND NOT EXISTS (SELECT 1"
                " FROM job AS mate WHERE mate.root_id = job.root_id AND mate.bundle = job.bundle"
                f" AND {_NOT_STORED})",
                (now_ms, now_ms),
            )

    def free_class(self, held_class: HeldClass, now_ms: int) -> int:
        """Let the jobs of a held class run; how many there were."""
        with self._db.transaction():
            return self._db.run(
                "UPDATE job SET held_class = NULL, run_after = ?, updated_at = ?"
                " WHERE held_class = ? AND state = 'queued'",
                (now_ms, now_ms, held_class),
            )

    def count_attempt(
        self, job: Job, kind: Kind, now_ms: int, *, window_ms: int | None = None
    ) -> int:
        """How often *kind* has met this job, this time included (within *window_ms*, if given)."""
        forget_before = now_ms - window_ms if window_ms is not None else -1
        with self._db.transaction():
            row = self._db.one(
                "INSERT INTO job_attempt (job_id, kind, n, since) VALUES (:job, :kind, 1, :now)"
                " ON CONFLICT (job_id, kind) DO UPDATE SET"
                " n = CASE WHEN since <= :forget THEN 1 ELSE n + 1 END,"
                " since = CASE WHEN since <= :forget THEN :now ELSE since END RETURNING n",
                {"job": job.id, "kind": kind, "now": now_ms, "forget": forget_before},
            )
            assert row is not None
            return int(row["n"])

    # -- uploads to abort -----------------------------------------------------------------------

    def unwanted_upload(self, now_ms: int) -> tuple[Multipart, int] | None:
        """The next upload to abort and the tries spent on it; None when none is due."""
        row = self._db.one(
            "SELECT * FROM upload WHERE state = 'unwanted' AND run_after <= ?"
            " ORDER BY run_after LIMIT 1",
            (now_ms,),
        )
        if row is None:
            return None
        return Multipart(row["upload_id"], row["storage_key"], 0, 0), row["attempt"]

    def end_upload(self, upload: Multipart, state: UploadState, now_ms: int) -> None:
        """Close the account of an upload: ``aborted``, ``gone`` or ``abandoned``."""
        with self._db.transaction():
            self._db.run(
                "UPDATE upload SET state = ?, updated_at = ? WHERE storage_key = ? AND upload_id = ?",
                (state, now_ms, upload.storage_key, upload.upload_id),
            )

    def postpone_abort(self, upload: Multipart, run_after: int, now_ms: int) -> None:
        """The abort did not get through; try again at *run_after*."""
        with self._db.transaction():
            self._db.run(
                "UPDATE upload SET run_after = ?, attempt = attempt + 1, updated_at = ?"
                " WHERE storage_key = ? AND upload_id = ?",
                (run_after, now_ms, upload.storage_key, upload.upload_id),
            )

    # -- inside ----------------------------------------------------------------------------------

    def _write(self, job: Job, values: Mapping[str, object]) -> None:
        columns = ", ".join(f"{column} = :{column}" for column in values)
        changed = self._db.run(
            f"UPDATE job SET {columns}"
            " WHERE id = :job_id AND state = 'leased' AND lease_owner = :our_lease",
            {**values, "job_id": job.id, "our_lease": job.lease_owner},
        )
        if not changed:
            raise LeaseLost(f"job {job.id} of {printable(job.rel_path)} is no longer ours")

    def _move(self, job: Job, event: Event, now_ms: int, *, reason: str, **values: object) -> None:
        state = advance(State.LEASED, event)
        self._write(
            job,
            {
                **values,
                "state": state,
                "lease_owner": None,
                "lease_expires_at": None,
                "updated_at": now_ms,
            },
        )
        self._log(job.id, State.LEASED, state, event, now_ms, reason)

    def _end_upload(
        self,
        job: Job,
        state: UploadState,
        now_ms: int,
        *,
        of: Collection[UploadState] = (UploadState.OPEN,),
    ) -> None:
        if job.upload_id is not None:
            self._db.run(
                "UPDATE upload SET state = ?, updated_at = ? WHERE storage_key = ?"
                " AND upload_id = ? AND state IN (SELECT value FROM json_each(?))",
                (state, now_ms, job.storage_key, job.upload_id, json.dumps([*of])),
            )

    def _void_upload(self, job_id: int) -> None:
        self._db.run("DELETE FROM part WHERE job_id = ?", (job_id,))
        nothing = ", ".join(f"{column} = NULL" for column in _UPLOAD_FACTS)
        self._db.run(f"UPDATE job SET {nothing} WHERE id = ?", (job_id,))

    def _log(
        self,
        job_id: int,
        before: State | None,
        after: State,
        event: Event | None,
        now_ms: int,
        reason: str | None,
    ) -> None:
        self._db.run(
            "INSERT INTO job_event (job_id, at, from_state, to_state, event, reason)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (job_id, now_ms, before, after, event, reason),
        )


def _json(only: Collection[int] | None) -> str | None:
    return None if only is None else json.dumps(sorted(only))
