"""
States and kinds that the store keeps and that the log, the commands and the metrics show.

This module imports only ``enum``: ``syncd status`` and ``syncd health`` import it directly, all other code
imports these names from ``syncd.types``.
"""

from enum import StrEnum


class State(StrEnum):
    """Who owns a job. How far the work got is read from the facts of the job."""

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Verdict(StrEnum):
    WANTED = "wanted"
    REFUSED = "refused"  # the server does not accept the name
    CONFLICT = "conflict"  # two local files map to one path in the catalog
    SHADOWED = "shadowed"  # ComfyUI loads another file under this name
    UNREADABLE = "unreadable"
    INCOMPLETE = "incomplete"
    IGNORED = "ignored"


class FileState(StrEnum):
    """The status of a file as users see it; every file on disk has exactly one."""

    REGISTERED = "registered"
    UPLOADING = "uploading"
    QUEUED = "queued"
    WAITING = "waiting"  # for the next attempt, or for the other files of its bundle
    NEEDS_SIGN_IN = "needs_sign_in"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DRIFT = "drift"  # registered, and changed in the catalog by others
    REFUSED = "refused"
    CONFLICT = "conflict"
    UNREADABLE = "unreadable"
    INCOMPLETE = "incomplete"
    IGNORED = "ignored"
    SHADOWED = "shadowed"


class HoldKind(StrEnum):
    """What all uploads can wait for."""

    OFFLINE = "offline"
    THROTTLED = "throttled"
    OPERATOR = "operator"
    LIMIT = "limit"
    ROOT = "root"
    PAUSED = "paused"  # by ``syncd pause``
    STATE = "state"  # the state directory is full or read-only; kept in memory only


class HeldClass(StrEnum):
    """What a queued job waits for, apart from its turn."""

    LARGE = "large"  # a signed-in user: a device key may not send the file
    BUNDLE = "bundle"  # the other files of its bundle; its own bytes are stored


class UploadState(StrEnum):
    OPEN = "open"
    COMPLETED = "completed"
    UNWANTED = "unwanted"  # to be aborted
    ABORTED = "aborted"
    GONE = "gone"  # the object store does not know it any more
    ABANDONED = "abandoned"  # the server has no way to abort it
