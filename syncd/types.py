"""
The values all rooms share.

Nothing here does anything: frozen dataclasses and enums, with the units in the names. ``size`` and
``part_size`` are bytes, ``*_at`` and ``run_after`` are Unix milliseconds UTC, ``*_s`` are seconds.
File names are ``str`` as ``os.fsdecode`` makes them, so undecodable bytes survive as surrogates;
``text.printable`` is the one way to show such a name to a person.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from syncd.formatting import printable as printable
from syncd.states import FileState as FileState
from syncd.states import HeldClass as HeldClass
from syncd.states import HoldKind as HoldKind
from syncd.states import State as State
from syncd.states import UploadState as UploadState
from syncd.states import Verdict as Verdict

LEAF_SIZE = 4 * 1024 * 1024
"""Bytes covered by one leaf digest of a plan."""

LEAF_DIGEST_SIZE = 16
"""Bytes of one leaf digest (XXH3-128)."""


class Event(StrEnum):
    """What can happen to a job."""

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
    """What happened to the file or the record of a job that is done; its state stays as it is."""

    GONE = "gone"  # the file is no longer on disk
    RENAMED = "renamed"  # the record moved to another path with the file
    DISABLED = "disabled"
    DELETED = "deleted"
    PRUNED = "pruned"  # disabled or deleted by ``syncd prune`` or a plan


class Priority(IntEnum):
    """What goes first; within one priority the smallest file does."""

    BUMPED = -1  # a person said so
    FRESH = 0  # came after the first whole walk: somebody waits for it
    BACKFILL = 1


class Kind(StrEnum):
    """
    The kind of a failure: the rows of the retry table (``syncd.core.jobs.retry_policy``), in its order.

    The value is what the log and the database carry.
    """

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
    """A request that syncd makes, by what it is for."""

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


# The next two are tuples and not dataclasses: a walk makes one of each a file, and a frozen
# dataclass takes more than twice as long to make.


class Fingerprint(NamedTuple):
    """A file's identity by ``fstat``, compared for equality only, never "newer than"."""

    dev: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def same_file_as(self, other: "Fingerprint") -> bool:
        """
        Equal but for the device number.

        NFS, FUSE, overlay and btrfs may change that at every mount, and a reboot must not make a
        whole tree look new. Another file system under the same path is noticed by the root's marker
        instead.
        """
        return (self.inode, self.size, self.mtime_ns, self.ctime_ns) == (
            other.inode, other.size, other.mtime_ns, other.ctime_ns,
        )  # fmt: skip

    def only_ctime_moved(self, other: "Fingerprint") -> bool:
        """
        Is *other* the same but for ctime (a chmod, a link, or a rewrite that set mtime back)?

        A device number may change at any mount, so one that did counts no more than ctime. Of the
        two only one may have moved: a link that was swapped can lead to a file on another file
        system whose inode number, size and mtime were chosen to agree, and ctime cannot be chosen.
        """
        same = (self.inode, self.size, self.mtime_ns) == (other.inode, other.size, other.mtime_ns)
        moved = (self.dev != other.dev) + (self.ctime_ns != other.ctime_ns)
        return same and moved == 1


class FoundFile(NamedTuple):
    """A regular file that the scanner met. ``allocated`` is bytes on disk (below size: sparse)."""

    root_id: int
    rel_path: str
    fingerprint: Fingerprint
    allocated: int


StatKey = tuple[bytes, int, int, int, str]
"""A path as its bytes, size, mtime_ns, ctime_ns, inode: of two files alike in these, as
``Fingerprint.same_file_as`` has it, nothing changed between two walks."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the store remembers of a path: the fingerprint last judged, and the verdict."""

    root_id: int
    rel_path: str
    fingerprint: Fingerprint
    verdict: Verdict
    reason: str | None = None
    model_path: str | None = None


class HintKind(StrEnum):
    """What the kernel said about a path."""

    CLOSED = "closed"  # a writer closed it
    MOVED = "moved"  # it got its name by a rename
    CREATED = "created"
    DELETED = "deleted"  # or renamed away
    RESCAN = "rescan"  # events were lost: look at everything below


@dataclass(frozen=True, slots=True)
class Hint:
    """
    "Look at this path", never more. ``folder`` means: at everything below it as well.

    ``rel_path`` is empty for the root itself.
    """

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
    """
    Where a file goes in the catalog, in the API's words.

    ``bundle`` is the folder whose files all go or none, if it belongs to one.
    """

    model_path: str
    model_type: str
    file_name: str
    display_name: str
    bundle: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """
    One sequential read of a file: its SHA-256 (64 lower-case hex digits) and its leaf digests.

    ``leaves`` holds ``LEAF_DIGEST_SIZE`` bytes for each ``LEAF_SIZE`` bytes of the file, in order.
    """

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
    """
    A presigned URL and what must be sent with it: a short-lived credential, memory only.

    ``deadline_ms`` is what the URL's own query says, or an assumption. ``repr`` shows no URL.
    """

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
    """What a sign-in or a renewal hands over; ``refresh`` buys the next ones, and only once."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class Session:
    """
    A user's session as it is kept between two runs; times are Unix ms on this machine's clock.

    Args:
        base_url, team_id: The cloud that gave it, and the team it is used for.
        refresh: Buys the next tokens, once; None when the server takes it no more.
        begun_at, expires_at: Of ``access``.
        refresh_sent_at: ``refresh`` was sent then, and what came back is not in this session.
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
    """A device that waits for its user, who opens ``address`` and confirms ``user_code`` there."""

    device_code: str = field(repr=False)
    user_code: str
    address: str
    lifetime_s: int
    interval_s: int


@dataclass(frozen=True, slots=True)
class Team:
    """A team of the user; ``role`` is None where the server does not tell it."""

    id: str
    name: str
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """
    Who stands behind a credential.

    ``switched_off`` names the features that speak of models and are off, each with its block of
    feature flags: ``global``, ``account`` or a team's id.
    """

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
    The wish to have one fingerprint of one path in the catalog, with the facts known of it.

    A fact is None until it is one. ``*_sent_at`` are intents, committed before the call; ``stored_at``
    and ``record_id`` are answers. ``held_class`` is ``large`` for a file that waits for a signed-in
    user, ``bundle`` for one that is stored and waits for the others of its bundle.
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
    lease_expires_at: int | None = None
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
