"""
The values that all packages share: frozen dataclasses and enums.

``size`` and ``part_size`` are bytes, ``*_at`` and ``run_after`` are Unix milliseconds UTC, ``*_s`` are
seconds. File names are ``str`` as ``os.fsdecode`` makes them, so undecodable bytes survive as surrogates;
use ``printable`` to show such a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, NamedTuple

from syncd.formatting import printable as printable
from syncd.states import FileState as FileState
from syncd.states import HeldClass as HeldClass
from syncd.states import HoldKind as HoldKind
from syncd.states import State as State
from syncd.states import UploadState as UploadState
from syncd.states import Verdict as Verdict

if TYPE_CHECKING:
    import os

LEAF_SIZE = 4 * 1024 * 1024  # bytes that one leaf digest covers
LEAF_DIGEST_SIZE = 16  # bytes of one leaf digest (XXH3-128)


class Event(StrEnum):
    CLAIM = "claim"
    FINISH = "finish"
    RETRY = "retry"
    RELEASE = "release"
    EXPIRE = "expire"
    REJECT = "reject"
    REPLACE = "replace"
    CANCEL = "cancel"
    REQUEUE = "requeue"


class Remark(StrEnum):
    """What happened to the file or the record of a finished job; its state does not change."""

    GONE = "gone"  # the file is no longer on disk
    RENAMED = "renamed"  # the record moved to another path with the file
    DISABLED = "disabled"
    DELETED = "deleted"
    PRUNED = "pruned"  # disabled or deleted by ``syncd prune`` or a plan


class Priority(IntEnum):
    """The order of the queue; within a priority the smallest file goes first."""

    BUMPED = -1  # by ``syncd bump``
    FRESH = 0  # appeared after the first complete scan, so a user probably waits for it
    BACKFILL = 1


class Kind(StrEnum):
    """The kind of a failure: a row of the retry table (``retry_policy``), in its order."""

    DEAD_CONNECTION = "dead_connection"
    NETWORK = "network"
    SERVER_TRANSIENT = "server_transient"
    SERVER_FAULT = "server_fault"
    STORE_IDLE = "store_idle"
    API_THROTTLED = "api_throttled"
    STORE_THROTTLED = "store_throttled"
    SESSION_REFUSED = "session_refused"
    DEVICE_KEY_REFUSED = "device_key_refused"
    NOT_ALLOWED = "not_allowed"
    NEEDS_SIGN_IN = "needs_sign_in"
    REQUEST_REFUSED = "request_refused"
    ROUTE_UNKNOWN = "route_unknown"
    CONFLICT = "conflict"
    STORE_CONFLICT = "store_conflict"
    TOO_LARGE = "too_large"
    URL_EXPIRED = "url_expired"
    SIGNATURE_REFUSED = "signature_refused"
    CLOCK_SKEW = "clock_skew"
    STORE_ACCESS_DENIED = "store_access_denied"
    OBJECT_EXISTS = "object_exists"
    OBJECT_MISSING = "object_missing"
    UPLOAD_GONE = "upload_gone"
    DIGEST_MISMATCH = "digest_mismatch"
    PARTS_REFUSED = "parts_refused"
    REDIRECTED = "redirected"
    TLS_ERROR = "tls_error"
    CAPTIVE_PORTAL = "captive_portal"
    INVALID_ANSWER = "invalid_answer"
    LOCAL_READ_ERROR = "local_read_error"
    STATE_ERROR = "state_error"
    INTERNAL_ERROR = "internal_error"
    OTHER_CLIENT_ERROR = "other_client_error"


class Call(StrEnum):
    """A request to the cloud, by its purpose."""

    LOGIN = "login"
    REFRESH = "refresh"
    REVOKE = "revoke"
    PAIR_START = "pair_start"
    PAIR_POLL = "pair_poll"
    ME = "me"
    PRESIGN = "presign"
    REGISTER = "register"
    LIST_MODELS = "list_models"
    GET_MODEL = "get_model"
    UPDATE_MODEL = "update_model"
    DELETE_MODEL = "delete_model"
    INITIATE = "initiate"
    SIGN_PART = "sign_part"
    COMPLETE = "complete"
    ABORT = "abort"
    PUT_BODY = "put_body"
    PUT_PART = "put_part"
    AGENTS = "agents"


# The next two are tuples and not dataclasses: a scan creates one of each per file, and creating a
# frozen dataclass takes more than twice as long.


class Fingerprint(NamedTuple):
    """A file's identity by ``fstat``, compared for equality only, never "newer than"."""

    dev: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: "os.stat_result") -> "Fingerprint":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def same_file_as(self, other: "Fingerprint") -> bool:
        """
        Return whether all but the device number is equal.

        NFS, FUSE, overlay and btrfs may change that at every mount. The root's mounts detect another file
        system.
        """
        return (self.inode, self.size, self.mtime_ns, self.ctime_ns) == (
            other.inode, other.size, other.mtime_ns, other.ctime_ns,
        )  # fmt: skip

    def only_ctime_moved(self, other: "Fingerprint") -> bool:
        """
        Return whether only ctime differs (a chmod, a link, or a rewrite that set mtime back).

        The device number may differ instead of ctime, but not with it: a swapped link can lead to a file
        on another file system whose inode number, size and mtime were chosen to agree, and ctime cannot
        be chosen.
        """
        same = (self.inode, self.size, self.mtime_ns) == (other.inode, other.size, other.mtime_ns)
        moved = (self.dev != other.dev) + (self.ctime_ns != other.ctime_ns)
        return same and moved == 1


class FoundFile(NamedTuple):
    """A regular file that the scanner found. ``allocated`` is bytes on disk (below size: sparse)."""

    root_id: int
    rel_path: str
    fingerprint: Fingerprint
    allocated: int


StatKey = tuple[bytes, int, int, int, str]
"""The path as bytes, size, mtime_ns, ctime_ns, inode: if all are equal, as in
``Fingerprint.same_file_as``, the file did not change between two scans."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the store remembers about a path: the last judged fingerprint and the verdict."""

    root_id: int
    rel_path: str
    fingerprint: Fingerprint
    verdict: Verdict
    reason: str | None = None
    model_path: str | None = None


class HintKind(StrEnum):
    """What the kernel reported about a path."""

    CLOSED = "closed"  # a writer closed it
    MOVED = "moved"  # renamed to this name
    CREATED = "created"
    DELETED = "deleted"  # or renamed away
    RESCAN = "rescan"  # events were lost: examine everything below


@dataclass(frozen=True, slots=True)
class Hint:
    """A request to examine a path (empty: the root) and, if ``folder``, everything below it."""

    root_id: int
    rel_path: str
    kind: HintKind
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Mount:
    """
    The mount that a path lies on, as ``/proc/self/mountinfo`` names it.

    ``root`` is the folder of the mounted file system that appears at the mount point.
    """

    fs_type: str
    source: str
    root: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a file goes in the catalog; ``bundle`` is the folder that is registered as a whole, if any."""

    model_path: str
    model_type: str
    file_name: str
    display_name: str
    bundle: str | None = None


@dataclass(frozen=True, slots=True)
class FileDigests:
    """The digests of a file: SHA-256 in hex, and ``LEAF_DIGEST_SIZE`` bytes for each ``LEAF_SIZE``."""

    size: int
    sha256: str
    leaves: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """``[offset, offset + size)`` of a file; numbers count from 1."""

    number: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A presigned URL and the headers to send with it, kept in memory; ``repr`` does not show the URL."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    deadline_ms: int
    storage_key: str | None = None


@dataclass(frozen=True, slots=True)
class Multipart:
    """An open multipart upload as the server described it."""

    upload_id: str
    storage_key: str
    part_size: int
    part_count: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens from a sign-in or a renewal; ``refresh`` can be exchanged for new ones once."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class Session:
    """
    A user's session as stored between two runs; times are Unix ms on this machine's clock.

    Args:
        base_url, team_id: The cloud that issued it, and the team it is used for.
        refresh: Exchanged for new tokens once; None if the server does not accept it any more.
        refresh_sent_at: When ``refresh`` was sent, if the session lacks the answer.
    """

    base_url: str
    team_id: str
    access: str = field(repr=False)
    refresh: str | None = field(repr=False)
    begun_at: int
    expires_at: int
    refresh_sent_at: int | None = None


@dataclass(frozen=True, slots=True)
class Pairing:
    """A pairing that waits until the user confirms ``user_code`` at ``address``."""

    device_code: str = field(repr=False)
    user_code: str
    address: str
    lifetime_s: int
    interval_s: int


@dataclass(frozen=True, slots=True)
class Team:
    """A team of the user; ``role`` is None if the server does not report it."""

    id: str
    name: str
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """The owner of a credential; ``switched_off`` has model features, each with the scope of its flag."""

    user_id: str
    name: str
    email: str | None
    teams: tuple[Team, ...] = ()
    switched_off: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A catalog record. Members a listing may leave out are None; ``created_at`` is ISO 8601, UTC."""

    id: str
    model_path: str | None
    model_type: str | None
    display_name: str | None
    storage_key: str | None
    file_size: int | None
    file_hash: str | None
    model_status: str | None
    created_at: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """
    A task to bring one fingerprint of one path into the catalog, with the facts about it.

    A fact is None until it is known. ``*_sent_at`` are intents, committed before the call; ``stored_at``
    and ``record_id`` are answers.
    """

    id: int
    root_id: int
    rel_path: str
    fingerprint: Fingerprint
    target: Target
    state: State
    attempt: int
    run_after: int
    lease_owner: str | None = None
    held_class: HeldClass | None = None
    sha256: str | None = None
    leaves: bytes | None = field(default=None, repr=False)
    storage_key: str | None = None
    upload_id: str | None = None
    part_size: int | None = None
    part_count: int | None = None
    body_sent_at: int | None = None
    complete_sent_at: int | None = None
    stored_at: int | None = None
    register_sent_at: int | None = None
    register_repeated_at: int | None = None
    record_id: str | None = None
    adopted: bool = False
    last_error: str | None = None
    last_kind: Kind | None = None
