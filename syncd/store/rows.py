"""Conversion between rows and values."""

import os
from typing import Any

from syncd.types import Fingerprint, HeldClass, Job, Kind, KnownFile, State, Target, Verdict

FINGERPRINT_COLUMNS = ("size", "mtime_ns", "ctime_ns", "dev", "inode")


def fingerprint_values(fingerprint: Fingerprint) -> tuple[int, int, int, str, str]:
    """Return the values of ``FINGERPRINT_COLUMNS``; an INTEGER cannot hold 64 unsigned bits."""
    return (
        fingerprint.size,
        fingerprint.mtime_ns,
        fingerprint.ctime_ns,
        str(fingerprint.dev),
        str(fingerprint.inode),
    )


def fingerprint_of(row: Any) -> Fingerprint:
    return Fingerprint(
        int(row["dev"]), int(row["inode"]), row["size"], row["mtime_ns"], row["ctime_ns"]
    )


def known_file_of(row: Any) -> KnownFile:
    return KnownFile(
        row["root_id"],
        os.fsdecode(row["rel_path"]),
        fingerprint_of(row),
        Verdict(row["verdict"]),
        row["reason"],
        row["model_path"],
    )


def job_of(row: Any) -> Job:
    return Job(
        id=row["id"],
        root_id=row["root_id"],
        rel_path=os.fsdecode(row["rel_path"]),
        fingerprint=fingerprint_of(row),
        target=Target(
            row["model_path"],
            row["model_type"],
            row["file_name"],
            row["display_name"],
            row["bundle"],
        ),
        state=State(row["state"]),
        attempt=row["attempt"],
        run_after=row["run_after"],
        lease_owner=row["lease_owner"],
        held_class=HeldClass(row["held_class"]) if row["held_class"] else None,
        sha256=row["sha256"],
        leaves=row["leaves"],
        storage_key=row["storage_key"],
        upload_id=row["upload_id"],
        part_size=row["part_size"],
        part_count=row["part_count"],
        body_sent_at=row["body_sent_at"],
        complete_sent_at=row["complete_sent_at"],
        stored_at=row["stored_at"],
        register_sent_at=row["register_sent_at"],
        register_repeated_at=row["register_repeated_at"],
        record_id=row["record_id"],
        adopted=bool(row["adopted"]),
        last_error=row["last_error"],
        last_kind=Kind(row["last_kind"]) if row["last_kind"] else None,
    )
