"""The context of a running job: its facts, what lives in memory only, and what all jobs share."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, TypeVar, Unpack

from syncd.clock import Clock
from syncd.cloud.client import CloudClient
from syncd.cloud.listing import Catalog
from syncd.core.jobs.outcome import Outcome, Side
from syncd.core.jobs.parts import Route
from syncd.core.jobs.retry_policy import late_wait_s
from syncd.errors import FileChanged, JobError
from syncd.executors import Executors
from syncd.monitoring.progress import Meter
from syncd.store.jobs import Facts
from syncd.store.records import RecordToRetire
from syncd.store.store import Store
from syncd.types import Call, Grant, Job, Multipart
from syncd.upload.limits import Bandwidth
from syncd.upload.routes import Routes
from syncd.upload.transfer import Transfer, Tries

P = ParamSpec("P")
T = TypeVar("T")

STOPPED = "syncd was stopped"
DAY_IS_FULL = "limits.max_bytes_per_day is reached"


class Released(Exception):
    """
    The job is given back between two steps; the message is the reason.

    Args:
        wait_s: Seconds before it may be claimed again.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class DrainFlag:
    """Set while the workers wind down: nothing that takes long may begin. Read by hashing threads."""

    def __init__(self) -> None:
        self._flag = threading.Event()
        self.reason = STOPPED

    def begin(self, reason: str) -> None:
        """Let running requests end and give the other jobs back."""
        self.reason = reason
        self._flag.set()

    def end(self) -> None:
        self._flag.clear()

    def is_set(self) -> bool:
        return self._flag.is_set()


@dataclass(frozen=True, slots=True)
class WorkerDeps:
    """
    What all jobs share.

    Args:
        jitter: Draws from [0, 1).
        reading: Limits the rate of hashing.
        latest_s: Seconds after which a request whose answer was lost cannot take effect any more.
        once: Whether this is a backfill.
        hidden: Whether new records are disabled at once.
        path_of: The absolute path of a job's file.
        expected_of: The SHA-256 that a download program noted for a job's file, if any.
        lacking: The file that a job's bundle lacks on disk, if any; runs on the scan thread.
        on_moved: Called when a job's file has changed and must be examined again.
    """

    store: Store
    lanes: Executors
    clock: Clock
    jitter: Callable[[], float]
    meter: Meter
    api: CloudClient
    catalog: Catalog
    transfer: Transfer
    routes: Routes
    reading: Bandwidth
    latest_s: float
    once: bool
    hidden: bool
    path_of: Callable[[Job], str]
    expected_of: Callable[[Job], str | None]
    lacking: Callable[[Job], str | None]
    on_moved: Callable[[Job], None]


@dataclass(slots=True)
class JobContext:
    """
    A running job: its committed facts, and what lives in memory only.

    Attributes:
        job: With the facts that were committed last.
        leaving: Set when the worker winds down.
        contact: Called after each good answer of a side.
        send_allowed: Returns whether bytes of the file may be sent.
        stop: Set when sending and hashing must stop at once.
        stale: How the file changed, if that is why ``stop`` is set.
        call: The last call; the retry table has variants by call.
        route: The route when the last step was chosen.
        grant, grant_used: The URL for the body, and whether a body was sent to it.
        tries: Requests and URLs spent on the body.
        unclear: The error of a register that may have taken effect; its record is searched for.
        may_move: False once the server refused to move a record.
        hash_first: The file must be hashed before any byte is sent.
        predecessor: Our record of the path's former bytes, disabled to make the path free.
        foreign_key: A storage key that holds an object of someone else.
        ended: The outcome, once there is one.
    """

    job: Job
    deps: WorkerDeps
    leaving: DrainFlag
    contact: Callable[[Side], Awaitable[None]]
    send_allowed: Callable[[Job], bool]
    stop: threading.Event = field(default_factory=threading.Event)
    stale: FileChanged | None = None
    call: Call = Call.PRESIGN
    route: Route = Route.PUT
    grant: Grant | None = None
    grant_used: bool = False
    tries: Tries = field(default_factory=Tries)
    unclear: JobError | None = None
    may_move: bool = True
    hash_first: bool = False
    predecessor: RecordToRetire | None = None
    foreign_key: str | None = None
    ended: Outcome | None = None

    @property
    def path(self) -> str:
        return self.deps.path_of(self.job)

    @property
    def upload(self) -> Multipart:
        job = self.job
        facts = (job.upload_id, job.storage_key, job.part_size, job.part_count)
        assert None not in facts, "no upload is open"
        return Multipart(*facts)  # type: ignore[arg-type]

    def require_past(self, sent_at: int, call: Call) -> None:
        """
        Require that the call sent at *sent_at* (Unix ms) can no longer take effect.

        Raises:
            Released: It still can; the job waits until then.
        """
        wait_s = late_wait_s(sent_at, self.now_ms, self.deps.latest_s)
        if wait_s > 0:
            raise Released(f"a {call} call was not answered and may still take effect", wait_s)

    @property
    def now_ms(self) -> int:
        return self.deps.clock.now_ms()

    async def note(self, **facts: Unpack[Facts]) -> None:
        """Commit facts or intents; ``LeaseLost`` if the job is no longer ours."""
        deps = self.deps
        self.job = await deps.lanes.db(deps.store.jobs.note, self.job, deps.clock.now_ms(), **facts)

    async def write(
        self, call: Callable[Concatenate[Job, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """
        Run a write of the store whose first argument is the job.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        return await self.deps.lanes.db(call, self.job, *args, **kwargs)
