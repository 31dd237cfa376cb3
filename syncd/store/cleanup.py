"""Deletes what is no longer needed: unused uploads, outdated jobs and old events."""

from typing import NamedTuple

from syncd.store.db import Queries


class Dropped(NamedTuple):
    """The number of deleted rows."""

    jobs: int
    events: int


# The newest job and the one with the newest event stay whatever their age: their ids must not
# be used again, because the id of an event makes a lease unique.
_OLD_JOBS = """
SELECT id FROM job
 WHERE state IN ('done', 'superseded') AND updated_at < :before
   AND id < (SELECT max(id) FROM job)
   AND id <> (SELECT job_id FROM job_event ORDER BY id DESC LIMIT 1)
   AND (EXISTS (SELECT 1 FROM job AS later WHERE later.root_id = job.root_id
                   AND later.rel_path = job.rel_path AND later.id > job.id)
        OR NOT EXISTS (SELECT 1 FROM file WHERE file.root_id = job.root_id
                          AND file.rel_path = job.rel_path))
   AND NOT EXISTS (SELECT 1 FROM upload WHERE upload.job_id = job.id
                      AND upload.state IN ('open', 'unwanted', 'abandoned'))
   AND (register_sent_at IS NULL OR record_id IS NOT NULL)
"""


class StoreCleanup(Queries):
    """Deletes old rows, but never records and used storage keys."""

    def give_up_uploads(self, now_ms: int) -> None:
        """
        Make every upload that no live job uses due for an abort.

        This includes uploads that the server had no way to abort earlier.
        """
        self._db.run(
            "UPDATE upload SET state = 'unwanted', run_after = 0, updated_at = :now"
            " WHERE state IN ('unwanted', 'abandoned') OR (state = 'open' AND NOT EXISTS"
            " (SELECT 1 FROM job WHERE job.id = upload.job_id"
            "     AND job.upload_id = upload.upload_id AND job.state IN ('queued', 'leased')))",
            {"now": now_ms},
        )

    def drop_old(self, before_ms: int) -> Dropped:
        """
        Delete jobs that ended before *before_ms* and are not their file's latest, and old events.

        Each job that stays keeps its newest event.
        """
        before = {"before": before_ms}
        with self._db.transaction():
            self._db.run(f"DELETE FROM upload WHERE job_id IN ({_OLD_JOBS})", before)
            jobs = self._db.run(f"DELETE FROM job WHERE id IN ({_OLD_JOBS})", before)
            events = self._db.run(
                "DELETE FROM job_event WHERE at < :before"
                " AND id NOT IN (SELECT max(id) FROM job_event GROUP BY job_id)",
                before,
            )
        return Dropped(jobs, events)

    def compact(self) -> None:
        """
        Return the space of deleted rows to the disk.

        Raises:
            StateFull: There is no room for the temporary copy that this needs.
        """
        self._db.vacuum()

    def size(self) -> int:
        """Return the bytes of the database without its log."""
        return int(self._db.value("PRAGMA page_count") * self._db.value("PRAGMA page_size"))
