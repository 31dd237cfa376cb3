"""
The job queue: creating, claiming and ending jobs, and what is committed about them.

A state change and its event are one commit. Each write to a leased job raises ``LeaseLost`` if the
job is no longer ours: superseded, cancelled or taken over.
"""

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from typing import TypedDict, Unpack

from syncd.core.jobs.states import advance
from syncd.store.db import Database
from syncd.store.records import Records
from syncd.store.rows import FINGERPRINT_COLUMNS, fingerprint_values, job_of
from syncd.store.uploads import Uploads, update_job
from syncd.types import (
    Event,
    FileDigests,
    Fingerprint,
    FoundFile,
    HeldClass,
    Job,
    Kind,
    Priority,
    State,
    Target,
)

_SELECT = "SELECT job.*, plan.leaves FROM job LEFT JOIN plan ON plan.job_id = job.id"


class Facts(TypedDict, total=False):
    """What ``JobQueue.note`` commits; times are when a call was sent, None if it had no effect."""

    stored_at: int
    record_id: str
    adopted: bool
    body_sent_at: int | None
    complete_sent_at: int | None
    register_sent_at: int | None
    register_repeated_at: int | None


_NOT_STORED = (
    "state IN ('queued', 'leased', 'failed', 'cancelled')"
    " AND stored_at IS NULL AND record_id IS NULL"
)
"""A wanted file whose bytes are not all in the object store."""

IN_DOUBT = "state = 'superseded' AND register_sent_at IS NOT NULL AND record_id IS NULL"

CLAIMED_MAX = 16
"""The most jobs of one claim."""

CANCEL_ADVICE = "To send it after all: syncd retry, with its path"

_CLAIMABLE = (
    "state = 'queued' AND held_class IS NULL"
    " AND (:only IS NULL OR id IN (SELECT value FROM json_each(:only)))"
)


class JobQueue:
    """The job table and its history. Times are Unix milliseconds, passed by the caller."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.records = Records(db)
        self.uploads = Uploads(db)

    # -- creating --------------------------------------------------------------------------------

    def enqueue(self, found: FoundFile, target: Target, now_ms: int, priority: Priority) -> int:
        """Add a job inside the caller's transaction; a live job of that path is superseded first."""
        self.replace_live(found.root_id, found.rel_path, now_ms, reason="the file changed")
        job_id = self._db.insert(
            "job",
            {
                "root_id": found.root_id,
                "rel_path": os.fsencode(found.rel_path),
                **_fingerprint_row(found.fingerprint),
                **asdict(target),
                "state": State.QUEUED,
                "priority": priority,
                "run_after": now_ms,
                "created_at": now_ms,
                "updated_at": now_ms,
            },
        )
        self._log(job_id, None, State.QUEUED, None, now_ms, None)
        return job_id

    def is_registered(self, found: FoundFile, target: Target) -> bool:
        """Return whether the last job of the path registered this file at this place."""
        job = self._last(found)
        return (
            job is not None
            and job.state is State.DONE
            and job.target.model_path == target.model_path
            and job.record_id is not None
            and not self.records.is_leaving(job.record_id)
        )

    def is_cancelled(self, found: FoundFile) -> bool:
        """Return whether the path's last job was cancelled and the file has not changed since."""
        job = self._last(found)
        return job is not None and job.state is State.CANCELLED

    def take_up(self, found: FoundFile, target: Target, now_ms: int) -> int | None:
        """
        Make the unfinished job of this very file due at once, with its counters reset.

        Returns:
            Its id; None if the path's last job ended, or is for other bytes or another target.
        """
        with self._db.transaction():
            job = self._last(found)
            if job is None or job.state not in (State.QUEUED, State.FAILED) or job.target != target:
                return None
            self.retry_now(job.id, now_ms)
            return job.id

    def _last(self, found: FoundFile) -> Job | None:
        """Return the path's last job, unless that was for other bytes."""
        row = self._db.one(
            f"{_SELECT} WHERE root_id = ? AND rel_path = ? ORDER BY job.id DESC LIMIT 1",
            (found.root_id, os.fsencode(found.rel_path)),
        )
        job = None if row is None else job_of(row)
        return job if job and job.fingerprint.same_file_as(found.fingerprint) else None

    # -- ownership -------------------------------------------------------------------------------

    def claim(
        self,
        owner: str,
        now_ms: int,
        fit: Callable[[Sequence[int]], int],
        *,
        only: Collection[int] | None = None,
    ) -> tuple[list[Job], bool]:
        """
        Lease the first due jobs, by priority and then by size, in one commit.

        The lease's owner is *owner* and a number that is never used again, so that a worker whose
        lease was lost is not taken for the one that its process gave the job to next.

        Args:
            fit: Returns how many jobs may start, given the sizes of the first ``CLAIMED_MAX`` due ones.
            only: The ids of the jobs that may be claimed; None: all.

        Returns:
            The leased jobs, and whether others are due that do not fit.
        """
        with self._db.transaction():
            due = self._db.all(
                f"SELECT id, size FROM job WHERE {_CLAIMABLE} AND run_after <= :now"
                f" ORDER BY priority, size, id LIMIT {CLAIMED_MAX}",
                {"now": now_ms, "only": _json(only)},
            )
            count = fit([row["size"] for row in due])
            jobs = [self._lease(row["id"], owner, now_ms) for row in due[:count]]
        return jobs, count < len(due)

    def _lease(self, job_id: int, owner: str, now_ms: int) -> Job:
        self._db.run(
            "UPDATE job SET state = 'leased', attempt = attempt + 1, updated_at = :now,"
            " lease_owner = :owner || '#' || (SELECT max(id) FROM job_event) WHERE id = :id",
            {"owner": owner, "now": now_ms, "id": job_id},
        )
        self._log(job_id, State.QUEUED, State.LEASED, Event.CLAIM, now_ms, None)
        return self.get(job_id)

    def next_due_ms(
        self, *, only: Collection[int] | None = None, after_ms: int | None = None
    ) -> int | None:
        """Return when the next queued job (of *only*) may start, after *after_ms*; None if none is."""
        due: int | None = self._db.value(
            f"SELECT min(run_after) FROM job WHERE {_CLAIMABLE} AND run_after > :after",
            {"only": _json(only), "after": -1 if after_ms is None else after_ms},
        )
        return due

    def is_ours(self, job: Job) -> bool:
        """Return whether the job still has the lease under which it was claimed."""
        owned = "SELECT 1 FROM job WHERE id = ? AND state = 'leased' AND lease_owner = ?"
        return self._db.one(owned, (job.id, job.lease_owner)) is not None

    def start_over(self, now_ms: int) -> None:
        """Requeue failed jobs and reset the counters of queued ones, because syncd was started."""
        self.requeue_failed(now_ms, reason="syncd was started")
        self._db.run(
            "DELETE FROM job_attempt WHERE job_id IN (SELECT id FROM job WHERE state = 'queued')"
        )

    def expire_all(self, now_ms: int) -> int:
        """
        Requeue all leased jobs at start, when their owner is dead; returns how many there were.

        No lease is taken back while syncd runs. A worker that hangs on a dead disk may still send
        once the disk answers, so a second worker of its job would send the same file at the same
        time, and would hang on the same disk.
        """
        with self._db.transaction():
            leased = self._jobs("state = 'leased'")
            for job in leased:
                self._change(job, Event.EXPIRE, now_ms, "owner died", run_after=now_ms)
            return len(leased)

    def make_all_due(self, now_ms: int) -> None:
        """Let every queued job run now instead of after its own wait."""
        self._db.run(
            "UPDATE job SET run_after = :now WHERE state = 'queued' AND run_after > :now",
            {"now": now_ms},
        )

    # -- facts -----------------------------------------------------------------------------------

    def get(self, job_id: int) -> Job:
        """Return the job with all its facts."""
        (job,) = self._jobs("job.id = ?", job_id)
        return job

    def note(self, job: Job, now_ms: int, **facts: Unpack[Facts]) -> Job:
        """Commit facts or intents of a leased job; returns the job with them."""
        with self._db.transaction():
            update_job(self._db, job, now_ms, facts)
        return replace(job, **facts)

    def note_digests(self, job: Job, digests: FileDigests, now_ms: int) -> Job:
        """
        Commit what one read of the file found, and the fingerprint under which it was read.

        If only the ctime had changed, the file as judged gets the new one: these are its bytes.
        """
        values = _fingerprint_row(job.fingerprint)
        with self._db.transaction():
            update_job(self._db, job, now_ms, {**values, "sha256": digests.sha256})
            self._db.run(
                "INSERT OR REPLACE INTO plan (job_id, leaves) VALUES (?, ?)",
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

    def count_attempt(
        self, job: Job, kind: Kind, now_ms: int, *, window_ms: int | None = None
    ) -> int:
        """Count a failure of the job; returns the number of *kind* so far (within *window_ms*)."""
        forget_before = now_ms - window_ms if window_ms is not None else -1
        with self._db.transaction():
            number: int = self._db.value(
                "INSERT INTO job_attempt (job_id, kind, n, since) VALUES (:job, :kind, 1, :now)"
                " ON CONFLICT (job_id, kind) DO UPDATE SET"
                " n = CASE WHEN since <= :forget THEN 1 ELSE n + 1 END,"
                " since = CASE WHEN since <= :forget THEN :now ELSE since END RETURNING n",
                {"job": job.id, "kind": kind, "now": now_ms, "forget": forget_before},
            )
            return number

    # -- ends ------------------------------------------------------------------------------------

    def finish(self, job: Job, record_id: str, now_ms: int, *, adopted: bool) -> bool:
        """
        End a job whose record is known, and remember the record.

        Returns:
            False if the file's ctime changed after the worker's last check: the file is then
            forgotten, and the caller must examine it again.
        """
        with self._db.transaction():
            self.uploads.give_up(job, now_ms)  # still open if the bytes were adopted
            self._change(
                job,
                Event.FINISH,
                now_ms,
                "adopted" if adopted else "registered",
                record_id=record_id,
                adopted=adopted,
                last_error=None,
                last_advice=None,
                last_kind=None,
            )
            self.records.note(job, record_id, now_ms, adopted=adopted)
            return not self._db.run(
                "DELETE FROM file WHERE root_id = ? AND rel_path = ? AND ctime_ns <> ?",
                (job.root_id, os.fsencode(job.rel_path), job.fingerprint.ctime_ns),
            )

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
            self._change(
                job,
                Event.RETRY,
                now_ms,
                reason,
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
        """Give the job and its attempt back: at a stop, for a hold, or because it must wait."""
        with self._db.transaction():
            self._change(
                job,
                Event.RELEASE,
                now_ms,
                reason,
                run_after=now_ms + wait_ms,
                attempt=max(job.attempt - 1, 0),
                held_class=held_class,
                last_error=reason,
                last_advice=advice,
            )

    def release_owned(self, owner: str, now_ms: int) -> None:
        """Release all jobs that *owner* has claimed."""
        with self._db.transaction():
            for job in self._jobs("state = 'leased'"):
                if job.lease_owner is not None and job.lease_owner.rpartition("#")[0] == owner:
                    self.release(job, now_ms, reason="syncd was stopped")

    def reject(self, job: Job, now_ms: int, *, kind: Kind, reason: str, advice: str | None) -> None:
        """End a job that failed; its upload, if any, is given up."""
        with self._db.transaction():
            self.uploads.give_up(job, now_ms)
            self._change(
                job,
                Event.REJECT,
                now_ms,
                reason,
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
            self.uploads.give_up(job, now_ms)
            self._db.run(
                "DELETE FROM file WHERE root_id = ? AND rel_path = ?",
                (job.root_id, os.fsencode(job.rel_path)),
            )
            self._change(job, Event.REPLACE, now_ms, reason)

    def replace_live(self, root_id: int, rel_path: str, now_ms: int, *, reason: str) -> bool:
        """Inside the caller's transaction: supersede the path's unfinished job, if there is one."""
        jobs = self._jobs(
            "root_id = ? AND rel_path = ? AND state IN ('queued', 'leased', 'failed', 'cancelled')",
            root_id,
            os.fsencode(rel_path),
        )
        for job in jobs:
            self.uploads.give_up(job, now_ms)
            self._change(job, Event.REPLACE, now_ms, reason)
        return bool(jobs)

    def requeue_failed(
        self, now_ms: int, *, reason: str, only: Collection[int] | None = None
    ) -> int:
        """Queue failed jobs (of *only*) again, with their counters reset; returns how many."""
        with self._db.transaction():
            failed = self._jobs("state = 'failed'")
            jobs = [job for job in failed if only is None or job.id in only]
            for job in jobs:
                self._requeue(job, now_ms, reason)
            return len(jobs)

    def _requeue(self, job: Job, now_ms: int, reason: str) -> None:
        if job.upload_id is not None and job.stored_at is None:
            self.uploads.forget(job)  # given up when the job ended: it is being aborted
        self._change(job, Event.REQUEUE, now_ms, reason, run_after=now_ms, attempt=0)
        self._db.run("DELETE FROM job_attempt WHERE job_id = ?", (job.id,))

    # -- registers of unknown outcome --------------------------------------------------------------

    def in_doubt(self, model_path: str) -> list[Job]:
        """Return superseded jobs whose register for *model_path* has an unknown outcome."""
        return self._jobs(f"model_path = ? AND {IN_DOUBT}", model_path)

    def settle_doubt(self, job: Job, record_id: str | None, now_ms: int) -> None:
        """
        Commit the outcome of a superseded job's register, unless it is known already.

        Args:
            record_id: Its record, which is ours from now on; None if there is none.
        """
        with self._db.transaction():
            settled = self._db.run(
                f"UPDATE job SET record_id = ?, register_sent_at = NULL WHERE id = ? AND {IN_DOUBT}",
                (record_id, job.id),
            )
            if settled and record_id is not None:
                self.records.note(job, record_id, now_ms, adopted=False)

    # -- operator commands -----------------------------------------------------------------------

    def retry_now(self, job_id: int, now_ms: int) -> bool:
        """
        Make a failed, cancelled or waiting job due now, with its counters reset.

        Returns:
            False, and nothing changed, if the job only waits for another file of its bundle.
        """
        with self._db.transaction():
            job = self.get(job_id)
            if job.state is State.QUEUED and job.held_class is HeldClass.BUNDLE:
                return False
            if job.state in (State.FAILED, State.CANCELLED):
                self._requeue(job, now_ms, "syncd retry")
            self._update_queued(
                job.id,
                now_ms,
                attempt=0,
                last_kind=None,
                last_error=None,
                last_advice=None,
                held_class=None,
            )
            self._db.run("DELETE FROM job_attempt WHERE job_id = ?", (job.id,))
            return True

    def send_again(self, root_id: int, rel_path: str, now_ms: int) -> int | None:
        """
        Queue a registered file whose record others deleted, disabled or moved; returns the job's id.

        The old record is left as it is. None, and nothing changed, if the path's last job did not
        end with a record.
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

    def bump(self, job_id: int, now_ms: int) -> None:
        """Let a queued job be the next that is claimed."""
        self._update_queued(job_id, now_ms, priority=Priority.BUMPED)

    def cancel(self, job_id: int, now_ms: int) -> None:
        """
        End an unfinished job and its upload; a worker that has its lease loses it.

        Its path gets no other job until the file changes or ``syncd retry`` is used.
        """
        with self._db.transaction():
            job = self.get(job_id)
            self.uploads.give_up(job, now_ms)
            self._change(
                job,
                Event.CANCEL,
                now_ms,
                "syncd cancel",
                held_class=None,
                last_error="cancelled by syncd cancel",
                last_advice=CANCEL_ADVICE,
                last_kind=None,
            )

    # -- waiting jobs ------------------------------------------------------------------------------

    def make_due(self, job: Job, now_ms: int) -> None:
        """Let a queued job run now instead of after its own wait."""
        self._update_queued(job.id, now_ms)

    def not_stored(self, job: Job) -> str | None:
        """Return another file of the job's bundle that is wanted and not stored yet, if any."""
        path = self._db.value(
            "SELECT min(rel_path) FROM job INDEXED BY job_by_bundle"
            f" WHERE root_id = ? AND bundle = ? AND {_NOT_STORED}",
            (job.root_id, job.target.bundle),
        )
        return None if path is None else os.fsdecode(path)

    def free_bundles(self, now_ms: int) -> int:
        """Let the files run that waited for others of their bundle; returns how many."""
        return self._free(
            HeldClass.BUNDLE,
            now_ms,
            " AND NOT EXISTS (SELECT 1 FROM job AS mate WHERE mate.root_id = job.root_id"
            f" AND mate.bundle = job.bundle AND {_NOT_STORED})",
        )

    def free_class(self, held_class: HeldClass, now_ms: int) -> int:
        """Let the jobs of a held class run; returns how many there were."""
        return self._free(held_class, now_ms, "")

    def _free(self, held_class: HeldClass, now_ms: int, condition: str) -> int:
        return self._db.run(
            "UPDATE job SET held_class = NULL, run_after = :now, updated_at = :now"
            f" WHERE held_class = :class AND state = 'queued'{condition}",
            {"class": held_class, "now": now_ms},
        )

    # -- inside ----------------------------------------------------------------------------------

    def _jobs(self, where: str, *values: object) -> list[Job]:
        return [job_of(row) for row in self._db.all(f"{_SELECT} WHERE {where}", values)]

    def _update_queued(self, job_id: int, now_ms: int, **values: object) -> None:
        """Make a job due, if it is queued, and write *values*."""
        values |= {"run_after": now_ms, "updated_at": now_ms}
        self._db.update("job", values, "id = :job_id AND state = 'queued'", {"job_id": job_id})

    def _change(self, job: Job, event: Event, now_ms: int, reason: str, **values: object) -> None:
        """Change the state of a job, which ends its lease, and add the event to its history."""
        state = advance(job.state, event)
        update_job(self._db, job, now_ms, {**values, "state": state, "lease_owner": None})
        self._log(job.id, job.state, state, event, now_ms, reason)

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


def _fingerprint_row(fingerprint: Fingerprint) -> dict[str, int | str]:
    return dict(zip(FINGERPRINT_COLUMNS, fingerprint_values(fingerprint), strict=True))


def _json(only: Collection[int] | None) -> str | None:
    return None if only is None else json.dumps(sorted(only))
