"""What a job has stored: its storage key, its multipart upload and parts; and the uploads to abort."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from syncd.errors import LeaseLost
from syncd.store.db import Database, Queries
from syncd.types import Job, Multipart, Part, UploadState, printable

_FACTS = (
    "storage_key", "upload_id", "part_size", "part_count",
    "body_sent_at", "complete_sent_at", "stored_at", "register_sent_at", "register_repeated_at",
)  # fmt: skip


def update_job(db: Database, job: Job, now_ms: int, values: Mapping[str, object]) -> None:
    """
    Inside the caller's transaction: write columns of a job that still has its state and lease.

    Raises:
        LeaseLost: It is no longer ours: superseded, cancelled or taken over.
    """
    changed = db.update(
        "job",
        {**values, "updated_at": now_ms},
        "id = :job_id AND state = :before AND lease_owner IS :lease",
        {"job_id": job.id, "before": job.state, "lease": job.lease_owner},
    )
    if not changed:
        raise LeaseLost(f"job {job.id} of {printable(job.rel_path)} is no longer ours")


class Uploads(Queries):
    """
    The upload, part and storage_key tables, and the columns of the job table about them.

    Every method with a job raises ``LeaseLost``, and writes nothing, if the job is no longer ours.
    """

    def note_key(self, job: Job, storage_key: str, now_ms: int) -> tuple[Job, bool]:
        """
        Commit a reserved storage key; returns the job, and whether the key may be used for its bytes.

        A key that was reserved for other bytes, or for bytes that cannot be compared yet, may not be
        used, and nothing changes. A multipart upload under an older key is given up.
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
            facts: dict[str, Any] = {**dict.fromkeys(_FACTS), "storage_key": storage_key}
            update_job(self._db, job, now_ms, facts)
            self.give_up(job, now_ms)
            self._delete_parts(job)
        return replace(job, **facts), True

    def note_upload(self, job: Job, upload: Multipart, now_ms: int) -> Job:
        """Commit an opened multipart upload. If the job is no longer ours, it is to be aborted."""
        facts: dict[str, Any] = {
            "upload_id": upload.upload_id,
            "part_size": upload.part_size,
            "part_count": upload.part_count,
        }
        try:
            with self._db.transaction():
                update_job(self._db, job, now_ms, facts)
                self._add(job, upload, UploadState.OPEN, now_ms)
        except LeaseLost:
            with self._db.transaction():
                self._add(job, upload, UploadState.UNWANTED, now_ms)
            raise
        return replace(job, **facts)

    def _add(self, job: Job, upload: Multipart, state: UploadState, now_ms: int) -> None:
        self._db.run(
            "INSERT INTO upload (upload_id, storage_key, job_id, state, updated_at)"
            " VALUES (?, ?, ?, ?, ?)",
            (upload.upload_id, upload.storage_key, job.id, state, now_ms),
        )

    def note_part(self, job: Job, part: Part, etag: str, leaves: bytes, now_ms: int) -> None:
        """Commit an acknowledged part; *leaves* are the digests of what was sent."""
        with self._db.transaction():
            update_job(self._db, job, now_ms, {})
            self._db.run(
                "INSERT OR REPLACE INTO part (job_id, number, etag, leaves) VALUES (?, ?, ?, ?)",
                (job.id, part.number, etag, leaves),
            )

    def etags(self, job: Job) -> dict[int, str]:
        """Return the committed etags by part number, ascending."""
        rows = self._db.all(
            "SELECT number, etag FROM part WHERE job_id = ? ORDER BY number", (job.id,)
        )
        return {row["number"]: row["etag"] for row in rows}

    def sent_leaves(self, job: Job) -> dict[int, bytes]:
        """Return the digests of the leaves that were sent with each committed part, by its number."""
        rows = self._db.all("SELECT number, leaves FROM part WHERE job_id = ?", (job.id,))
        return {row["number"]: row["leaves"] for row in rows}

    def drop_parts(self, job: Job, now_ms: int) -> None:
        """Forget the committed parts, because the object store disputes them."""
        with self._db.transaction():
            update_job(self._db, job, now_ms, {})
            self._delete_parts(job)

    def note_stored(self, job: Job, now_ms: int) -> Job:
        """Commit that the object is complete in the object store."""
        with self._db.transaction():
            update_job(self._db, job, now_ms, {"stored_at": now_ms})
            self._end(job, UploadState.COMPLETED, now_ms)
        return replace(job, stored_at=now_ms)

    def fresh_upload(self, job: Job, now_ms: int, *, gone: bool) -> Job:
        """Forget the storage key and the upload, which is aborted unless it is *gone*."""
        nothing: dict[str, Any] = dict.fromkeys(_FACTS)
        with self._db.transaction():
            update_job(self._db, job, now_ms, nothing)
            # A 404 to a repeated complete was taken for its success; the upload may still be open.
            of = (UploadState.OPEN, UploadState.COMPLETED)
            self._end(job, UploadState.GONE if gone else UploadState.UNWANTED, now_ms, of=of)
            self._delete_parts(job)
        return replace(job, **nothing)

    # -- without a lease, inside the caller's transaction ------------------------------------------

    def give_up(self, job: Job, now_ms: int) -> None:
        """Have the job's upload aborted, if one is open."""
        self._end(job, UploadState.UNWANTED, now_ms)

    def forget(self, job: Job) -> None:
        """Forget all that the job stored."""
        self._delete_parts(job)
        self._db.update("job", dict.fromkeys(_FACTS), "id = :job_id", {"job_id": job.id})

    def _delete_parts(self, job: Job) -> None:
        self._db.run("DELETE FROM part WHERE job_id = ?", (job.id,))

    def _end(
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

    # -- uploads to abort --------------------------------------------------------------------------

    def next_unwanted(self, now_ms: int) -> Multipart | None:
        """Return the next upload to abort; None if none is due."""
        row = self._db.one(
            "SELECT * FROM upload WHERE state = 'unwanted' AND run_after <= ?"
            " ORDER BY run_after LIMIT 1",
            (now_ms,),
        )
        return None if row is None else Multipart(row["upload_id"], row["storage_key"], 0, 0)

    def end(self, upload: Multipart, state: UploadState, now_ms: int) -> None:
        """Commit the end of an upload: ``aborted``, ``gone`` or ``abandoned``."""
        self._db.run(
            "UPDATE upload SET state = ?, updated_at = ? WHERE storage_key = ? AND upload_id = ?",
            (state, now_ms, upload.storage_key, upload.upload_id),
        )

    def postpone_abort(self, upload: Multipart, run_after: int, now_ms: int) -> None:
        """Repeat the abort, which failed, at *run_after*."""
        self._db.run(
            "UPDATE upload SET run_after = ?, updated_at = ? WHERE storage_key = ?"
            " AND upload_id = ?",
            (run_after, now_ms, upload.storage_key, upload.upload_id),
        )
