"""
Catalog records that syncd knows, and their retirement.

A record is ours if this syncd registered it. It is *replaced* if its path has new bytes, and *gone* if
its file was deleted. syncd retires only its own records, one call at a time, after it committed the
intent. Until then a job can claim the record back.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from syncd.core.catalog.drift import Drift, is_disabled
from syncd.store.db import Queries
from syncd.types import Job, KnownFile, Record, Remark, Target


@dataclass(frozen=True, slots=True)
class RecordToRetire:
    """A record of ours to retire: ``replaced`` by new bytes, otherwise its file is gone."""

    record_id: str
    model_path: str
    sha256: str
    replaced: bool


@dataclass(frozen=True, slots=True)
class Changing:
    """
    A record whose last update or delete has an unknown outcome.

    Args:
        sent_at: When the intent was committed, Unix ms.
        leaving: It was to be disabled or deleted, because its file is gone or has other bytes.
    """

    record_id: str
    model_path: str
    sent_at: int
    leaving: bool

    def took_effect(self, record: Record | None) -> bool:
        """Return whether the catalog's *record* (None: deleted) shows the change."""
        if record is None or record.model_path not in (None, self.model_path):
            return True
        return self.leaving and is_disabled(record)


@dataclass(frozen=True, slots=True)
class Standing:
    """
    A record that should be in the catalog.

    Args:
        ours: This syncd registered it.
        drift: What others did to it, as of the last comparison.
        twin_id: The record that is about to replace it.
    """

    record_id: str
    model_path: str
    sha256: str
    ours: bool
    drift: Drift | None
    twin_id: str | None


class Records(Queries):
    """The record table."""

    def note(self, job: Job, record_id: str, now_ms: int, *, adopted: bool) -> None:
        """
        Inside the caller's transaction: remember the record of a job.

        Our records with other bytes at its path become replaced. A record that is known at another path,
        where no file is any more, was moved: it must not be retired.
        """
        path = job.target.model_path
        self._relocate(record_id, path, f" AND {_NO_FILE}")
        self._db.run(
            "INSERT INTO record (record_id, model_path, sha256, size, storage_key, root_id,"
            " rel_path, adopted, registered_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (model_path, sha256) DO UPDATE SET record_id = excluded.record_id,"
            " storage_key = coalesce(excluded.storage_key, storage_key),"
            " registered_at = excluded.registered_at,"
            " root_id = excluded.root_id, rel_path = excluded.rel_path,"
            # A record of ours that is found again in the catalog stays ours.
            " adopted = CASE WHEN record_id = excluded.record_id THEN min(adopted, excluded.adopted)"
            " ELSE excluded.adopted END,"
            " gone_at = NULL, replaced_at = NULL, retire_sent_at = NULL, retired_at = NULL,"
            " retire_after = 0, change_sent_at = NULL, checked_at = NULL, twin_id = NULL,"
            " drift = CASE WHEN record_id = excluded.record_id THEN drift END",
            (
                record_id,
                path,
                job.sha256,
                job.fingerprint.size,
                job.storage_key,
                job.root_id,
                os.fsencode(job.rel_path),
                adopted,
                now_ms,
            ),
        )
        self._db.run(
            "UPDATE record SET replaced_at = ? WHERE model_path = ? AND sha256 <> ?"
            " AND adopted = 0 AND replaced_at IS NULL",
            (now_ms, path, job.sha256),
        )

    def claim(self, model_path: str, sha256: str) -> str | None:
        """
        Return the known record with these bytes at that path, and keep it from being retired.

        None if there is none, or if its retirement has begun.
        """
        with self._db.transaction():
            record_id: str | None = self._db.value(
                "UPDATE record SET gone_at = NULL, replaced_at = NULL"
                " WHERE model_path = ? AND sha256 = ? AND retire_sent_at IS NULL"
                " RETURNING record_id",
                (model_path, sha256),
            )
        return record_id

    def has_size(self, size: int) -> bool:
        """Return whether a record of a file of *size* bytes is known."""
        return self._db.one("SELECT 1 FROM record WHERE size = ? LIMIT 1", (size,)) is not None

    def is_leaving(self, record_id: str) -> bool:
        """Return whether its retirement has begun."""
        leaving = "SELECT 1 FROM record WHERE record_id = ? AND retire_sent_at IS NOT NULL"
        return self._db.one(leaving, (record_id,)) is not None

    def remark(self, record_id: str, remark: Remark, reason: str, now_ms: int) -> None:
        """Add an event to the history of the record's file."""
        self._db.run(
            f"{_REMARK} WHERE record_id = :record AND state = 'done' ORDER BY id DESC LIMIT 1",
            {"now": now_ms, "event": remark, "reason": reason, "record": record_id},
        )

    def note_gone(self, file: KnownFile, now_ms: int) -> None:
        """Mark the records of a deleted file; they are retired later."""
        values = {"now": now_ms, "root": file.root_id, "path": os.fsencode(file.rel_path)}
        self._db.run(
            f"{_REMARK} WHERE state = 'done' AND id = (SELECT max(id) FROM job"
            " WHERE root_id = :root AND rel_path = :path)",
            {**values, "event": Remark.GONE, "reason": "the file is no longer on disk"},
        )
        self._db.run(
            "UPDATE record SET gone_at = :now WHERE root_id = :root AND rel_path = :path"
            " AND gone_at IS NULL",
            values,
        )

    # -- renames ---------------------------------------------------------------------------------

    def movable(self, sha256: str) -> str | None:
        """Return a record of ours with these bytes whose file is gone, perhaps renamed."""
        record_id: str | None = self._db.value(
            "SELECT record_id FROM record WHERE sha256 = ? AND adopted = 0 AND gone_at IS NOT NULL"
            f" AND retire_sent_at IS NULL AND {_KNOWN_ID} AND {_NO_FILE}"
            " ORDER BY gone_at DESC LIMIT 1",
            (sha256,),
        )
        return record_id

    def note_moved(self, record_id: str, target: Target, now_ms: int) -> None:
        """Commit that an update gave the record another path."""
        with self._db.transaction():
            self.remark(record_id, Remark.RENAMED, f"the file is {target.model_path} now", now_ms)
            self._relocate(record_id, target.model_path)
            self._set(record_id, gone_at=None, change_sent_at=None)

    # -- changes of unknown outcome --------------------------------------------------------------

    def intend_change(self, record_id: str, now_ms: int) -> None:
        """Commit the intent to send an update or delete."""
        self._set(record_id, change_sent_at=now_ms)

    def note_answered(self, record_id: str) -> None:
        """Commit that the last update or delete has a known outcome."""
        self._set(record_id, change_sent_at=None)

    def change_sent_at(self, record_id: str) -> int | None:
        """Return when a change of unknown outcome was sent (Unix ms), or None."""
        sent_at: int | None = self._db.value(
            "SELECT change_sent_at FROM record WHERE record_id = ?", (record_id,)
        )
        return sent_at

    def changing(self, sha256: str) -> list[Changing]:
        """Return the records of these bytes that have a change of unknown outcome."""
        rows = self._db.all(
            "SELECT * FROM record WHERE sha256 = ? AND change_sent_at IS NOT NULL", (sha256,)
        )
        return [
            Changing(
                row["record_id"],
                row["model_path"],
                row["change_sent_at"],
                leaving=row["retire_sent_at"] is not None,
            )
            for row in rows
        ]

    def settle_change(self, changing: Changing, record: Record | None, now_ms: int) -> None:
        """Apply the outcome of a change; *record* is the catalog's, None if it was deleted."""
        with self._db.transaction():
            if record is not None and record.model_path not in (None, changing.model_path):
                self._relocate(changing.record_id, record.model_path)
            if changing.leaving:
                stays = record is not None and not is_disabled(record)
                if stays:
                    self._set(changing.record_id, retired_at=None, retire_sent_at=None)
                else:
                    self._set(changing.record_id, retired_at=now_ms)
            self.note_answered(changing.record_id)

    def _relocate(self, record_id: str, model_path: str | None, where: str = "") -> None:
        self._db.run(
            f"UPDATE OR REPLACE record SET model_path = ? WHERE record_id = ?{where}",
            (model_path, record_id),
        )

    # -- drift -----------------------------------------------------------------------------------

    def has_unchecked(self) -> bool:
        """Return whether a record was never compared with the listing."""
        unchecked = f"SELECT 1 FROM record WHERE checked_at IS NULL AND {_STANDS}"
        return self._db.one(unchecked) is not None

    def standing(self) -> list[Standing]:
        """Return the records that should be in the catalog, because their file exists."""
        rows = self._db.all(f"SELECT * FROM record WHERE {_STANDS} ORDER BY model_path, sha256")
        return [_standing(row) for row in rows]

    def standing_for(self, root_id: int, rel_path: str) -> Standing | None:
        """Return the record of the path's last job."""
        row = self._db.one(
            "SELECT record.* FROM job JOIN record USING (record_id) WHERE job.id ="
            " (SELECT max(id) FROM job WHERE root_id = ? AND rel_path = ?) AND job.state = 'done'",
            (root_id, os.fsencode(rel_path)),
        )
        return None if row is None else _standing(row)

    def note_checked(self, drifts: Mapping[str, Drift | None], now_ms: int) -> None:
        """Commit a comparison with the listing, by record ids."""
        self._db.run_many(
            "UPDATE record SET checked_at = ?, drift = ? WHERE record_id = ?",
            [(now_ms, drift, record_id) for record_id, drift in drifts.items()],
        )

    def note_twin(self, record_id: str, twin_id: str | None) -> None:
        """Commit the intent to disable it in favour of another record; None: it stays."""
        self._set(record_id, twin_id=twin_id)

    def yield_to_duplicate(self, record_id: str, twin_id: str) -> None:
        """Replace it by the other record, after it was disabled."""
        with self._db.transaction():
            self._db.run(
                "UPDATE record SET record_id = :twin, adopted = 1, storage_key = NULL,"
                " twin_id = NULL, change_sent_at = NULL, drift = NULL WHERE record_id = :own",
                {"twin": twin_id, "own": record_id},
            )
            self._db.run(
                "UPDATE job SET record_id = :twin, adopted = 1"
                " WHERE record_id = :own AND state = 'done'",
                {"twin": twin_id, "own": record_id},
            )

    def let_go(self, record_id: str, now_ms: int) -> None:
        """Inside the caller's transaction: stop using the record without changing it in the catalog."""
        self._set(record_id, retire_sent_at=now_ms, retired_at=now_ms, drift=None)

    # -- retiring --------------------------------------------------------------------------------

    def retiring(
        self, now_ms: int, *, gone_before: int | None, most_gone: int
    ) -> tuple[RecordToRetire | None, int]:
        """
        Choose a record to retire; also returns how many deletions are held back.

        The intent to retire it is committed with the choice. No live job has its bytes:
        such a job may adopt the record or move it to the path of a renamed file.

        Args:
            gone_before: Also retire records whose file was deleted before this (Unix ms); None: never.
            most_gone: Retire none of these if there are more, because that looks like an accident.
        """
        replaced = self._due("replaced_at IS NOT NULL", now_ms, limit=1)
        gone = []
        if not replaced and gone_before is not None:
            gone = self._due(f"gone_at < :before AND {_NO_FILE}", now_ms, before=gone_before)
        if len(gone) > most_gone:
            return None, len(gone)
        chosen = next(iter([*replaced, *gone]), None)
        if chosen is not None:
            self.note_retiring(chosen, now_ms)
        return chosen, 0

    def _due(
        self, which: str, now_ms: int, *, before: int = 0, limit: int | None = None
    ) -> list[RecordToRetire]:
        rows = self._db.all(
            f"{_TO_RETIRE} AND retired_at IS NULL AND retire_after <= :now AND {_KNOWN_ID} AND {which}"
            " AND NOT EXISTS (SELECT 1 FROM job WHERE job.state IN ('queued', 'leased')"
            " AND (job.model_path = record.model_path OR job.sha256 = record.sha256))"
            " LIMIT ifnull(:limit, -1)",
            {"now": now_ms, "before": before, "limit": limit},
        )
        return [_retiring(row) for row in rows]

    def predecessor(self, model_path: str, sha256: str) -> RecordToRetire | None:
        """Return a record of ours that still has other bytes at that path."""
        row = self._db.one(
            f"{_TO_RETIRE} AND model_path = ? AND sha256 <> ? AND retired_at IS NULL AND {_KNOWN_ID}",
            (model_path, sha256),
        )
        return None if row is None else replace(_retiring(row), replaced=True)

    def note_retiring(self, retiring: RecordToRetire, now_ms: int) -> None:
        """Commit the intent to retire it."""
        self._write(retiring, retire_sent_at=now_ms)

    def note_retired(self, retiring: RecordToRetire, now_ms: int) -> None:
        """Commit that it is retired, or that the server cannot do it."""
        self._write(retiring, change_sent_at=None, retired_at=now_ms)

    def postpone(self, retiring: RecordToRetire, until_ms: int) -> None:
        """Retry the retirement later; the call may have taken effect."""
        self._write(retiring, retire_after=until_ms)

    def own(self, record_id: str) -> RecordToRetire | None:
        """Return the record with that id if it is ours."""
        row = self._db.one(f"{_TO_RETIRE} AND record_id = ?", (record_id,))
        return None if row is None else _retiring(row)

    def note_deleted(self, retiring: RecordToRetire) -> None:
        """Forget a record that was deleted from the catalog."""
        self._db.run("DELETE FROM record WHERE record_id = ?", (retiring.record_id,))

    def reinstate(self, retiring: RecordToRetire) -> None:
        """Undo its retirement."""
        self._write(
            retiring, change_sent_at=None, retire_sent_at=None, retired_at=None, replaced_at=None
        )

    def _write(self, retiring: RecordToRetire, **values: int | None) -> None:
        key = {"path": retiring.model_path, "bytes": retiring.sha256}
        self._db.update("record", values, "model_path = :path AND sha256 = :bytes", key)

    def _set(self, record_id: str, **values: int | str | None) -> None:
        self._db.update("record", values, "record_id = :id", {"id": record_id})


_REMARK = (
    "INSERT INTO job_event (job_id, at, from_state, to_state, event, reason)"
    " SELECT id, :now, state, state, :event, :reason FROM job"
)


def _retiring(row: Any) -> RecordToRetire:
    replaced = row["replaced_at"] is not None
    return RecordToRetire(row["record_id"], row["model_path"], row["sha256"], replaced=replaced)


def _standing(row: Any) -> Standing:
    return Standing(
        row["record_id"],
        row["model_path"],
        row["sha256"],
        ours=not row["adopted"],
        drift=None if row["drift"] is None else Drift(row["drift"]),
        twin_id=row["twin_id"],
    )


_TO_RETIRE = "SELECT record_id, model_path, sha256, replaced_at FROM record WHERE adopted = 0"

_KNOWN_ID = "record_id NOT LIKE 'unknown:%'"

_STANDS = f"gone_at IS NULL AND replaced_at IS NULL AND retire_sent_at IS NULL AND {_KNOWN_ID}"

_NO_FILE = (
    "NOT EXISTS (SELECT 1 FROM file"
    " WHERE file.root_id = record.root_id AND file.rel_path = record.rel_path)"
)
"""The record's file does not exist."""
