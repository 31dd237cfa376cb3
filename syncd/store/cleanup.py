"""What has had its time: uploads that nobody wants, jobs that others followed, old events."""

from dataclasses import dataclass

from syncd.store.db import Database


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many rows went."""

    jobs: int
    events: int


# The newest job and the one with the newest event stay whatever their age: their numbers must not
# come again, since a lease is told from others by the number of an event.
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


class StoreCleanup:
    """The writer's broom. What the catalog holds and which keys were used is never forgotten."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def give_up_uploads(self, now_ms: int) -> None:
        """
        Make every upload that is of no use to a live job due for an abort.

        Those are tried again, too, that the server once gave no way to abort.
        """
        with self._db.transaction():
            self._db.run(
                "UPDATE upload SET state = 'unwanted', run_after = 0, updated_at = :now"
                " WHERE state IN ('unwanted', 'abandoned') OR (state = 'open' AND NOT EXISTS"
                " (SELECT 1 FROM job WHERE job.id = upload.job_id"
                "     AND job.upload_id = upload.upload_id AND job.state IN ('queued', 'leased')))",
                {"now": now_ms},
            )

    def drop_old(self, before_ms: int) -> Dropped:
        """
        Forget what ended before *before_ms*: jobs that are not their file's latest, and events.

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
        Give the room of dropped rows back to the disk.

        Raises:
            StateFull: It needs as much room again for a moment, and there is none.
        """
        self._db.vacuum()

    def size(self) -> int:
        """Bytes of the database, its log not counted."""
        pages, page = self._db.one("PRAGMA page_count"), self._db.one("PRAGMA page_size")
        assert pages is not None
        assert page is not None
        return int(pages[0]) * int(page[0])
