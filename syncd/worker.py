"""
One job from claim to its end.

The worker asks ``core.steps`` what the job needs next, does it, commits the fact, and asks again.
It keeps no memory of its own beside a live upload URL: whatever happens to the process, the next
claim starts from the facts. What an error leads to is the retry table's answer, not the worker's.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import structlog

from syncd import hashing
from syncd.api import DISABLED, NO_SUCH_CALL, CloudApi
from syncd.auth import Credentials
from syncd.bandwidth import Bandwidth
from syncd.catalog import Catalog
from syncd.clock import Clock
from syncd.core import retry
from syncd.core.parts import Route, choose_route, leaves_of, missing_parts, plan_parts
from syncd.core.responses import STORE_CALLS, to_error
from syncd.core.steps import Step, next_step
from syncd.errors import (
    FileChanged,
    Hold,
    JobError,
    LeaseLost,
    NeedsOperator,
    Permanent,
    StateError,
)
from syncd.lanes import Lanes
from syncd.lead import Lead
from syncd.model import LEAF_SIZE, Call, Grant, Job, Kind, Multipart, Part, Plan, printable
from syncd.progress import Meter, Phase, Tally
from syncd.soundness import mismatch
from syncd.store import Retiring, Store
from syncd.transfer import Transfer, Tries

PERSON_PROBE_S = 3600.0
"""Before a hold that a person has to end is probed, where the retry table names no wait."""

YOUNGEST_S = 2.0
"""A file changed more recently than this could change again without its timestamps telling."""

ONCE_PARKED_S = 3600.0
"""A backfill does not come back to a job that it gave up on; the next one starts with it at once."""

LOOK_LATER_S = 60.0
"""Before a job goes on whose trouble asked for a look that its step does not know."""

ANSWER_PATIENCE_S = 30.0
"""A job that is taken away while an upload is being opened still waits so long for its id."""

DAY_MS = 24 * 3600 * 1000

STRETCH = 8 * LEAF_SIZE
"""Bytes hashed between two looks at whether the hashing may go on."""


class Side(StrEnum):
    """The two hosts that a job talks to."""

    API = "api"
    STORE = "store"

    @classmethod
    def of(cls, error: JobError) -> "Side":
        """Whom the request that met *error* went to."""
        return cls.STORE if error.call in STORE_CALLS else cls.API


_NO_MOVE = frozenset({Kind.ROUTE_UNKNOWN, Kind.OUR_DATA, Kind.CONFLICT})
"""What says that this server does not change this record so."""


class End(StrEnum):
    """How a worker let go of a job."""

    REGISTERED = "registered"
    ADOPTED = "adopted"
    FAILED = "failed"
    LATER = "later"
    HELD = "held"
    NEEDS_SIGN_IN = "needs_sign_in"
    SUPERSEDED = "superseded"
    RELEASED = "released"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How it ended, and for a hold or a failure the error and the seconds until a probe.

    ``fuse``: when several files in a row fail so, it is the server's fault and not theirs.
    """

    end: End
    error: JobError | None = None
    wait_s: float = 0.0
    fuse: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The settings a worker needs: bytes, seconds, and whether this is a backfill.

    ``hidden``: what is registered is disabled at once.
    """

    single_put_limit: int
    lease_ttl_s: float
    once: bool = False
    hidden: bool = False


class _Leaving(Exception):
    """The job is given back between two steps; the text says why."""


_STOPPED = "syncd was stopped"
_DAY_IS_FULL = "limits.max_bytes_per_day is reached"


_LAST_STEPS = frozenset({Step.COMPLETE, Step.LOOK_UP, Step.REGISTER, Step.FINISH, Step.ADOPT})
"""What is worth doing on the way out: the bytes are there, one small request is left."""

_SENDING_STEPS = frozenset({Step.PRESIGN, Step.INITIATE, Step.PUT, Step.PARTS})
"""What is only done, or only makes sense, where bytes may leave."""


class _Either:
    """Raised when one of several flags is."""

    def __init__(self, *flags: hashing.Flag) -> None:
        self._flags = flags

    def is_set(self) -> bool:
        return any(flag.is_set() for flag in self._flags)


@dataclass(slots=True)
class _Run:
    """A job at work: the facts as committed, and what lives in memory only."""

    job: Job
    stop: threading.Event
    grant: Grant | None = None
    call: Call = Call.PRESIGN
    grant_used: bool = False
    tries: Tries = field(default_factory=Tries)
    unclear: int = 0
    may_move: bool = True
    hash_first: bool = False
    made_room: Retiring | None = None
    foreign_key: str | None = None
    ended: Outcome | None = None

    def may_look_now(self, error: JobError) -> bool:
        """Find out at once what became of a request? Once a run, and not where the server wants peace."""
        if not error.unclear or error.retry_after_s is not None or self.unclear:
            return False
        self.unclear += 1
        return True


class Worker:
    """
    Brings jobs into the catalog, several at once if asked to.

    Args:
        path_of: The absolute path of a job's file.
        expected_of: The SHA-256 that a job's file was announced with, if it was.
        lacking: What the bundle of a job lacks on disk, if anything; for the scan thread.
        on_moved: Called when a job's file turned out to have changed: look there again.

    ``on_contact`` may be set to what is called after each sign that a side answers as it should,
    ``may_send`` to what tells whether any byte of a job's file may leave.
    """

    on_contact: Callable[[Side], Awaitable[None]] | None = None
    may_send: Callable[[Job], bool] | None = None

    def __init__(
        self,
        *,
        store: Store,
        lanes: Lanes,
        api: CloudApi,
        transfer: Transfer,
        catalog: Catalog,
        credentials: Credentials,
        clock: Clock,
        jitter: Callable[[], float],
        meter: Meter,
        limits: Limits,
        reading: Bandwidth,
        path_of: Callable[[Job], str],
        expected_of: Callable[[Job], str | None],
        lacking: Callable[[Job], str | None],
        on_moved: Callable[[Job], None],
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._api = api
        self._transfer = transfer
        self._catalog = catalog
        self._credentials = credentials
        self._clock = clock
        self._jitter = jitter
        self._meter = meter
        self._limits = limits
        self._reading = reading
        self._single_put_limit = limits.single_put_limit
        self._leaving = threading.Event()
        self._why_leaving = _STOPPED
        self._path_of = path_of
        self._expected_of = expected_of
        self._lacking = lacking
        self._on_moved = on_moved
        self._log = structlog.get_logger("syncd.worker")
        self._do: dict[Step, Callable[[_Run], Awaitable[None]]] = {
            Step.PLAN: self._plan,
            Step.ADOPT: self._adopt,
            Step.MOVE: self._move,
            Step.PRESIGN: self._presign,
            Step.PUT: self._put,
            Step.SIGN_IN: self._sign_in,
            Step.INITIATE: self._initiate,
            Step.PARTS: self._parts,
            Step.COMPLETE: self._complete,
            Step.LOOK_UP: self._look_up,
            Step.REGISTER: self._register,
            Step.FINISH: self._finish,
        }

    def wind_down(self, why: str = _STOPPED) -> None:
        """Begin nothing that takes long: what is on the wire ends, the rest is given back."""
        self._why_leaving = why
        self._leaving.set()

    def carry_on(self) -> None:
        """Work as usual again; no job may be under way."""
        self._leaving.clear()

    async def run(self, job: Job) -> Outcome:
        """
        Work on a claimed job until it ends or has to wait.

        Cancelling it stops the bytes and gives the job back untried.

        Raises:
            StateError: The store cannot be written: nothing can go on.
        """
        run = _Run(job, threading.Event())
        self._meter.begin(job)
        with structlog.contextvars.bound_contextvars(
            job_id=job.id, rel_path=job.rel_path, attempt=job.attempt
        ):
            self._log.info("job.claimed", size=job.fingerprint.size)
            started_s = self._clock.boottime_s()
            try:
                outcome = await self._supervised(run)
            except asyncio.CancelledError:
                outcome = await self._released(run)
                self._meter.count(Tally.ENDED, outcome.end)
                raise
            finally:
                run.stop.set()
                self._meter.end(
                    job.id,
                    registered=run.ended is not None and run.ended.end is End.REGISTERED,
                    adopted=run.ended is not None and run.ended.end is End.ADOPTED,
                    failed=run.ended is not None and run.ended.end is End.FAILED,
                )
            self._meter.count(Tally.ENDED, outcome.end)
            self._log.info(
                "job.ended",
                end=str(outcome.end),
                seconds=round(self._clock.boottime_s() - started_s, 3),
                record_id=run.job.record_id,
            )
            return outcome

    # -- supervision -----------------------------------------------------------------------------

    async def _supervised(self, run: _Run) -> Outcome:
        """Work and keep the lease; losing the lease stops the work."""
        work = asyncio.create_task(self._work(run))
        lease = asyncio.create_task(self._keep_lease(run))
        try:
            await asyncio.wait({work, lease}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                run.stop.set()
                work.cancel()
            await asyncio.wait({work})
            if lease.done() and not lease.cancelled() and lease.exception() is not None:
                lease.result()
            if work.cancelled():
                return self._superseded(run)
            return work.result()
        finally:
            run.stop.set()
            for task in (work, lease):
                task.cancel()
            await asyncio.gather(work, lease, return_exceptions=True)

    async def _keep_lease(self, run: _Run) -> None:
        ttl_ms = int(self._limits.lease_ttl_s * 1000)
        while True:
            await self._clock.sleep(self._limits.lease_ttl_s / 3)
            try:
                await self._lanes.db(self._store.jobs.renew, run.job, self._clock.now_ms(), ttl_ms)
            except LeaseLost:
                return

    async def _work(self, run: _Run) -> Outcome:
        try:
            while run.ended is None:
                step = await self._next(run)
                if self._leaving.is_set() and step not in _LAST_STEPS:
                    raise _Leaving(self._why_leaving)
                if step in _SENDING_STEPS and self.may_send is not None:
                    _require_allowed(self.may_send(run.job))
                if step in _SENDING_STEPS and not await self._transfer.may_send():
                    raise _Leaving(_DAY_IS_FULL)
                await self._do[step](run)
            return run.ended
        except _Leaving as reason:
            return await self._released(run, why=str(reason))
        except hashing.Stopped:
            if self._leaving.is_set() and not run.stop.is_set():
                return await self._released(run)
            return self._superseded(run)
        except LeaseLost:
            return self._superseded(run)
        except FileChanged as error:
            return await self._moved(run, error)
        except JobError as error:
            return await self._decide(run, error)
        except (StateError, asyncio.CancelledError):
            raise
        except Exception as error:
            self._log.exception("job.bug")
            return await self._decide(
                run, to_error(Kind.OUR_BUG, f"a bug in syncd: {type(error).__name__}")
            )

    async def _next(self, run: _Run) -> Step:
        job = run.job
        fresh = job.sha256 is not None and job.storage_key is None
        known = fresh and await self._known(run)
        movable = fresh and not known and await self._movable(run) is not None
        missing = len(await self._missing(job)) if job.upload_id is not None else 0
        route = choose_route(
            job.fingerprint.size,
            single_put_limit=self._single_put_limit,
            session=self._credentials.is_session,
            multipart=self._api.multipart_available,
        )
        unheard_of = job.sha256 is None and await self._unheard_of(run, route)
        # A URL that was never used is used whatever its life: some servers sign for seconds only.
        granted = run.grant is not None and (
            not run.grant_used or self._transfer.is_live(run.grant)
        )
        return next_step(
            job,
            route=route,
            granted=granted,
            missing=missing,
            known=known,
            movable=movable,
            unheard_of=unheard_of,
        )

    async def _unheard_of(self, run: _Run, route: Route) -> bool:
        """
        Does nothing suggest that the catalog holds these bytes, not even their number?

        Then they may leave while they are hashed, which reads the disk once. An upload that began so
        goes on so.
        """
        job = run.job
        if run.hash_first or route is not Route.MULTIPART:
            return False
        if job.storage_key is not None:
            return True
        run.call = Call.LIST_MODELS
        size = job.fingerprint.size
        return not (
            await self._lanes.db(self._store.records.has_size, size)
            or await self._catalog.may_hold(job.target.model_path, size)
        )

    # -- steps -----------------------------------------------------------------------------------

    async def _plan(self, run: _Run) -> None:
        self._meter.phase(run.job.id, Phase.HASHING)
        await self._look_first(run)
        await self._note_plan(run, await self._read(run))

    async def _look_first(self, run: _Run) -> None:
        """Before the first byte is read: is it the file that was queued, and of some age?"""
        run.job = await self._as_it_is_now(run.job)
        age_s = (self._clock.now_ms() - run.job.fingerprint.ctime_ns // 1_000_000) / 1000
        if 0 <= age_s < YOUNGEST_S:
            await self._clock.sleep(YOUNGEST_S - age_s)

    async def _note_plan(self, run: _Run, plan: Plan) -> None:
        """Commit what the whole file is, unless it was announced as something else."""
        expected = await self._lanes.hash(self._expected_of, run.job)
        if expected not in (None, plan.sha256):
            await self._not_as_announced(run, mismatch(expected))
            return
        run.job = await self._db(self._store.jobs.note_plan, run.job, plan)

    async def _adopt(self, run: _Run) -> None:
        record_id = await self._record_id(run)
        assert record_id is not None, "the step is taken only when the record is known"
        run.job = await self._note(run.job, record_id=record_id, adopted=True)

    async def _move(self, run: _Run) -> None:
        """The file was renamed: its record goes with it, where the server can do that."""
        run.call = Call.UPDATE_MODEL
        record_id, target = await self._movable(run), run.job.target
        assert record_id is not None, "the step is taken only where there is one"
        place = {
            "model_path": target.model_path,
            "model_type": target.model_type,
            "display_name": target.display_name,
        }
        try:
            run.may_move = await self._api.update_model(record_id, place)
        except JobError as error:
            if error.kind not in _NO_MOVE:
                raise
            run.may_move = False
        if not run.may_move:
            return
        self._catalog.forget()
        self._log.info("record.moved", record_id=record_id, model_path=target.model_path)
        await self._lanes.db(self._store.records.note_moved, record_id, target)
        run.job = await self._note(run.job, record_id=record_id, adopted=False)

    async def _movable(self, run: _Run) -> str | None:
        assert run.job.sha256 is not None, "planned before"
        if not run.may_move:
            return None
        return await self._lanes.db(self._store.records.movable, run.job.sha256)

    async def _presign(self, run: _Run) -> None:
        run.call = Call.PRESIGN
        job = run.job
        try:
            grant = await self._api.presign(job.target, job.fingerprint.size)
        except JobError as error:
            if error.kind is not Kind.CONFLICT:
                raise
            if job.sha256 is None:
                run.hash_first = True  # whether these bytes are there cannot be told yet
            else:
                await self._taken(run)
            return
        await self._contact()
        assert grant.storage_key is not None, "checked where the answer came in"
        await self._transfer.check_host(grant)
        await self._take_key(run, grant.storage_key)
        run.grant, run.grant_used = grant, False

    async def _put(self, run: _Run) -> None:
        """One try; the loop comes back here, or to presign, for the next."""
        run.call = Call.PUT_BODY
        assert run.grant is not None, "the step is taken only with a live URL"
        self._meter.phase(run.job.id, Phase.SENDING)
        sent_before = run.job.body_sent_at is not None
        run.job = await self._note(run.job, body_sent_at=self._clock.now_ms())
        run.grant_used = True
        try:
            await self._transfer.whole(run.job, run.grant, run.stop)
        except JobError as error:
            if not (sent_before or error.unclear):  # so nothing of ours is under that key
                run.job = await self._note(run.job, body_sent_at=None)
            if error.kind is Kind.EXISTS:
                await self._exists(run, ours=sent_before)
            elif await self._transfer.again(run.tries, error, Call.PUT_BODY):
                run.grant = None
            return
        await self._contact(Side.STORE)
        await self._stored(run)

    async def _sign_in(self, run: _Run) -> None:
        above = f"{run.job.fingerprint.size} bytes are above the {self._single_put_limit} that"
        if self._credentials.is_session:
            raise to_error(
                Kind.NEEDS_SIGN_IN,
                f"{above} go in one request, and this server has no multipart calls where syncd "
                "looks for them",
                advice="Ask its operator for the paths and set them in [api.multipart].",
            )
        raise to_error(
            Kind.NEEDS_SIGN_IN,
            f"{above} a device key may send in one request",
            advice="Large files need a user's session: syncd login --large-files",
        )

    async def _initiate(self, run: _Run) -> None:
        """Once asked for, an upload's id is waited for and kept, even if the job is taken away."""
        run.call = Call.INITIATE
        opening = asyncio.create_task(self._open_upload(run.job))
        try:
            run.job = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait({opening}, timeout=ANSWER_PATIENCE_S)
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            raise

    async def _open_upload(self, job: Job) -> Job:
        assert job.storage_key is not None, "presigned before"
        upload = await self._api.initiate(job.storage_key, job.fingerprint.size)
        await self._contact()
        opened: Job = await self._db(self._store.jobs.note_upload, job, upload)
        return opened

    async def _parts(self, run: _Run) -> None:
        """
        Send what has no committed etag; after a first error, let the parts under way finish.

        Where the file was not read yet, it is read ahead of that, and to its end whatever happens to
        the parts: the next attempt then knows what it is.
        """
        run.call = Call.PUT_PART
        if run.job.sha256 is None:
            await self._look_first(run)
        missing = await self._missing(run.job)
        self._meter.phase(run.job.id, Phase.SENDING)
        self._tell_parts(run.job, missing)
        upload = _upload_of(run.job)
        found = await self._lanes.hash(hashing.footprint, self._path_of(run.job))
        lead = Lead(run.job.leaves or b"", missing, width=lambda: self._transfer.width)
        errors: list[BaseException] = []

        async def lane(queue: list[Part]) -> None:
            while queue and not errors and await self._may_go_on():
                part = queue.pop(0)
                leaves = await lead.over(part)
                if leaves is None:
                    return
                try:
                    etag = await self._transfer.part(
                        run.job, upload, part, leaves, found=found, stop=run.stop
                    )
                    sent = leaves[leaves_of(part)]
                    await self._db(self._store.jobs.note_part, run.job, part, etag, sent)
                except (JobError, hashing.Stopped, StateError) as error:
                    errors.append(error)
                    lead.end()
                    if isinstance(error, JobError):
                        self._meter.count(Tally.PART, "failed")
                else:
                    lead.acknowledged(part)
                    await self._contact(Side.STORE)
                    self._meter.count(Tally.PART, "stored")
                    self._meter.part_done(run.job.id, part.number)
                    self._log.debug("part.uploaded", part=part.number, size=part.size)

        async def ahead() -> None:
            try:
                await self._hash_ahead(run, lead)
            except (JobError, hashing.Stopped, StateError) as error:
                errors.append(error)
                lead.end()

        queue = list(missing)
        async with asyncio.TaskGroup() as group:
            if run.job.sha256 is None:
                group.create_task(ahead())
            lanes = [
                group.create_task(lane(queue))
                for _ in range(min(self._transfer.widest, len(queue)))
            ]
            await asyncio.wait(lanes)
            lead.end()
        if errors:
            raise min(errors, key=_urgency)
        if queue:
            raise _Leaving(self._why_leaving if self._leaving.is_set() else _DAY_IS_FULL)

    async def _hash_ahead(self, run: _Run, lead: Lead) -> None:
        """
        Read the file beside its sending, and commit what it is.

        Raises:
            Stopped: The job was told to stop, or the file is not what its download was to bring.
        """
        job, stop = run.job, _Either(run.stop, self._leaving)
        on_bytes = self._count_hashed(job, stop)
        hasher = hashing.Hasher(self._path_of(job), job.fingerprint, read_again=True)
        while not hasher.is_through:
            await lead.room()
            await self._lanes.hash(
                hasher.read_to, hasher.offset + STRETCH, stop=stop, on_bytes=on_bytes
            )
            lead.grow(bytes(hasher.leaves))
        await self._note_plan(run, hasher.plan())
        if run.ended is not None:
            run.stop.set()
            raise hashing.Stopped

    async def _may_go_on(self) -> bool:
        """Is there time for another part, and may it leave?"""
        return not self._leaving.is_set() and await self._transfer.may_send()

    async def _complete(self, run: _Run) -> None:
        run.call = Call.COMPLETE
        self._meter.phase(run.job.id, Phase.FINISHING)
        await self._fence(run)
        await self._compare(run.job)
        in_doubt = run.job.complete_sent_at is not None
        etags = await self._lanes.db(self._store.jobs.etags, run.job)
        run.job = await self._note(run.job, complete_sent_at=self._clock.now_ms())
        try:
            await self._api.complete(_upload_of(run.job), list(etags.items()), again=in_doubt)
        except JobError as error:
            if error.kind is Kind.UPLOAD_GONE and in_doubt:
                pass  # an earlier complete was sent: register tells whether the object is there
            elif run.may_look_now(error):
                return
            else:
                if not (in_doubt or error.unclear):  # refused: nothing of it is in doubt later
                    run.job = await self._note(run.job, complete_sent_at=None)
                raise
        await self._stored(run)

    async def _look_up(self, run: _Run) -> None:
        """A register was sent and its answer is unknown: find out before anything is repeated."""
        run.call = Call.LIST_MODELS
        job = run.job
        assert job.storage_key is not None, "nothing is registered without one"
        record, listed = await self._catalog.stored_under(job.storage_key, job.target.model_path)
        if record is not None:
            run.job = await self._note(job, record_id=record.id)
        elif listed:
            run.job = await self._note(job, register_sent_at=None)
        elif job.register_repeated_at is None:
            run.job = await self._note(job, register_repeated_at=self._clock.now_ms())
            await self._send_register(run, repeated=True)
        else:
            raise Permanent(
                "two registrations were sent and neither was answered, and this server does not "
                "list its models",
                kind=Kind.CONFLICT,
                advice=f"Look whether {job.target.model_path} is in the catalog. If it is not, "
                "touch the file.",
            )

    async def _register(self, run: _Run) -> None:
        if (mate := await self._mate_of(run.job)) is not None:
            why = f"stored; its bundle waits for {mate}"
            await self._db(self._store.jobs.release, run.job, why=why, held_class="bundle")
            run.ended = Outcome(End.RELEASED)
            return
        await self._fence(run)
        run.job = await self._note(run.job, register_sent_at=self._clock.now_ms())
        await self._send_register(run, repeated=False)

    async def _finish(self, run: _Run) -> None:
        job = run.job
        assert job.record_id is not None, "the step is taken only with a record"
        if self._limits.hidden and job.register_sent_at is not None:
            await self._hide(run, job.record_id)
        if not await self._db(self._store.jobs.finish, job, job.record_id, adopted=job.adopted):
            self._on_moved(job)
        run.ended = Outcome(End.ADOPTED if job.adopted else End.REGISTERED)

    async def _hide(self, run: _Run, record_id: str) -> None:
        """Disable the record just made; where the server cannot do that, agents get it."""
        run.call = Call.UPDATE_MODEL
        try:
            hidden = await self._api.update_model(record_id, DISABLED)
        except JobError as error:
            if error.kind not in NO_SUCH_CALL:
                raise
            hidden = False
        if not hidden:
            self._log.warning("record.not_hidden", record_id=record_id)

    async def _mate_of(self, job: Job) -> str | None:
        """
        What the job's bundle waits for, if it has one: none of it is registered before all is stored.

        Whoever is stored last lets the others run; but first all of it must still be there.
        """
        if job.target.bundle is None:
            return None
        mate = await self._lanes.db(self._store.jobs.not_stored, job)
        if mate is not None:
            return printable(mate)
        lacking = await self._lanes.scan(self._lacking, job)
        if lacking is None:
            await self._lanes.db(self._store.jobs.free_bundles, self._clock.now_ms())
        return lacking

    # -- parts of steps --------------------------------------------------------------------------

    async def _send_register(self, run: _Run, *, repeated: bool) -> None:
        run.call = Call.REGISTER
        job = run.job
        assert job.storage_key is not None, "stored before"
        assert job.sha256 is not None, "planned before"
        self._catalog.doubt(job.target.model_path)
        try:
            record_id = await self._api.register(
                job.target,
                storage_key=job.storage_key,
                size=job.fingerprint.size,
                sha256=job.sha256,
            )
        except JobError as error:
            if not error.timed_out:
                self._catalog.answered(job.target.model_path)
            if run.may_look_now(error):
                return
            if error.unclear or error.kind is Kind.EXISTS:
                raise  # the intent stays: the next claim looks before anything is repeated
            if error.kind is Kind.CONFLICT and repeated:
                # The first one took effect; a server without a listing does not tell its id.
                run.job = await self._note(job, record_id=f"unknown:{job.storage_key}")
            elif error.kind is Kind.CONFLICT:
                run.job = await self._note(job, register_sent_at=None)
                if not await self._make_room(run):
                    await self._taken(run)
            else:
                # Of a refused repeat nothing is in doubt; of the first one all that was before.
                intent = "register_repeated_at" if repeated else "register_sent_at"
                run.job = await self._note(job, **{intent: None})
                raise
            return
        self._catalog.answered(job.target.model_path)
        await self._contact()
        run.job = await self._note(job, record_id=record_id)

    async def _make_room(self, run: _Run) -> bool:
        """
        Disable our own record of the path's former bytes, once; True if it is worth another try.

        If the server turns the new one down all the same, the former is put in force again.
        """
        job, records = run.job, self._store.records
        assert job.sha256 is not None, "planned before"
        if run.made_room is not None:
            await self._api.update_model(run.made_room.record_id, {"model_status": "active"})
            await self._lanes.db(records.reinstate, run.made_room)
            return False
        former = await self._lanes.db(records.predecessor, job.target.model_path, job.sha256)
        if former is None:
            return False
        await self._lanes.db(records.note_retiring, former, self._clock.now_ms())
        run.call = Call.UPDATE_MODEL
        try:
            disabled = await self._api.update_model(former.record_id, DISABLED)
        except JobError as error:
            if error.kind not in _NO_MOVE:
                raise
            disabled = False
        if not disabled:
            await self._lanes.db(records.reinstate, former)
            return False
        await self._lanes.db(records.note_retired, former, self._clock.now_ms())
        run.made_room = former
        return True

    async def _stored(self, run: _Run) -> None:
        run.job = await self._db(self._store.jobs.note_stored, run.job)

    async def _taken(self, run: _Run) -> None:
        """
        The server says that the path is taken. By these very bytes: adopted; by others: refused.

        Raises:
            Permanent: The catalog holds something else there, or will not tell what.
        """
        job = run.job
        assert job.sha256 is not None, "planned before"
        self._catalog.forget()
        record = await self._catalog.holding(job.target.model_path, job.sha256)
        if record is None:
            raise Permanent(
                f"the server says that {job.target.model_path} is taken, and does not show these bytes "
                "there",
                kind=Kind.CONFLICT,
                advice="A record's bytes never change. Give the changed file a new name, or "
                "remove the old record from the catalog.",
            )
        run.job = await self._note(job, record_id=record.id, adopted=job.stored_at is None)

    async def _exists(self, run: _Run, *, ours: bool) -> None:
        """
        The store holds an object under our key already.

        Ours: an earlier body got through and its answer was lost; a single PUT is all or nothing
        and its length is signed. Not ours: never register it, ask for another key, and if the
        server insists on this one, stop.
        """
        if ours:
            await self._stored(run)
            return
        key = run.job.storage_key
        if run.foreign_key == key:
            raise Permanent(
                "the object store already holds something under the key that the server gives for "
                f"{run.job.target.model_path}",
                kind=Kind.EXISTS,
                advice="Nothing was registered. Remove the old object, or give the file a new name.",
            )
        run.foreign_key, run.grant = key, None

    async def _take_key(self, run: _Run, storage_key: str) -> None:
        """
        One storage key, one plan. Where the key is taken and these bytes are not known, read them first.
        """
        run.job, usable = await self._db(self._store.jobs.note_key, run.job, storage_key)
        if usable:
            return
        if run.job.sha256 is None:
            run.hash_first = True
            return
        raise Permanent(
            f"the server gave the storage key of other bytes for {run.job.target.model_path}",
            kind=Kind.EXISTS,
            advice="Nothing was sent. Give the changed file a new name, or ask the "
            "operator of the cloud why storage keys repeat.",
        )

    # -- the file --------------------------------------------------------------------------------

    async def _read(self, run: _Run) -> Plan:
        stop = _Either(run.stop, self._leaving)
        path, on_bytes = self._path_of(run.job), self._count_hashed(run.job, stop)
        return await self._lanes.hash(
            hashing.make_plan, path, run.job.fingerprint, stop=stop, on_bytes=on_bytes
        )

    def _count_hashed(self, job: Job, stop: hashing.Flag) -> Callable[[int], None]:
        """Counts bytes as they are hashed, and holds the hashing thread to its rate."""

        def on_bytes(count: int) -> None:
            self._meter.add_hashed(job.id, count)
            self._reading.spend(count, stop=stop)

        return on_bytes

    async def _not_as_announced(self, run: _Run, why: str) -> None:
        """The file is not what its download was to bring: nothing of it is completed or registered."""
        await self._db(self._store.files.mark_incomplete, run.job, why)
        self._log.warning("file.incomplete", path=run.job.rel_path, why=why)
        self._superseded(run)

    async def _as_it_is_now(self, job: Job) -> Job:
        """The job with the ctime of this moment; anything else that moved makes it stale."""
        seen = await self._lanes.hash(hashing.look, self._path_of(job))
        if seen == job.fingerprint:
            return job
        if not seen.only_ctime_moved(job.fingerprint):
            raise FileChanged(f"{printable(self._path_of(job))} changed before it could be read")
        return replace(job, fingerprint=seen)

    async def _fence(self, run: _Run) -> None:
        """
        The file must still be the one that was planned.

        Where only ctime moved (a chmod, or a rewrite that put mtime back) the file is read again and
        must hold the same bytes.
        """
        now = await self._as_it_is_now(run.job)
        if now.fingerprint == run.job.fingerprint:
            return
        before, run.job = run.job, now
        plan = await self._read(run)
        if plan.sha256 != before.sha256:
            raise FileChanged(
                f"{printable(self._path_of(before))} holds other bytes than were sent"
            )
        run.job = await self._db(self._store.jobs.note_plan, run.job, plan)

    async def _compare(self, job: Job) -> None:
        """Every part must have gone out with the leaves that the file's own digest was made from."""
        assert job.leaves is not None, "planned before"
        assert job.part_size is not None, "opened before"
        sent = await self._lanes.db(self._store.jobs.sent_leaves, job)
        for part in plan_parts(job.fingerprint.size, job.part_size):
            if sent.get(part.number) != job.leaves[leaves_of(part)]:
                raise FileChanged(
                    f"{printable(self._path_of(job))} holds other bytes than were sent of it",
                    unseen=True,
                )

    # -- the catalog -----------------------------------------------------------------------------

    async def _known(self, run: _Run) -> bool:
        return await self._record_id(run) is not None

    async def _record_id(self, run: _Run) -> str | None:
        """The record that holds these bytes at this path: our own memory first, then the cloud's."""
        job = run.job
        assert job.sha256 is not None, "planned before"
        path = job.target.model_path
        own = await self._lanes.db(self._store.records.claim, path, job.sha256)
        if own is not None:
            return own
        run.call = Call.LIST_MODELS
        record = await self._catalog.holding(path, job.sha256)
        if record is None or await self._lanes.db(self._store.records.is_leaving, record.id):
            return None
        return record.id

    # -- ends ------------------------------------------------------------------------------------

    async def _decide(self, run: _Run, error: JobError) -> Outcome:
        """What the retry table makes of an error that the request and URL scopes did not cure."""
        row = retry.row_of(error.kind, run.call)
        window_ms = DAY_MS if row.fresh_uploads else None
        try:
            spent = await self._db(
                self._store.jobs.count_attempt, run.job, error.kind, window_ms=window_ms
            )
            resends = min(spent - 1, row.resends)
            decision = retry.decide(
                error.kind,
                call=run.call,
                attempt=spent,
                resends_spent=resends,
                fresh_urls_spent=row.fresh_urls,
                fresh_uploads_spent=spent - 1 - resends,
                retry_after_s=error.retry_after_s,
                jitter=self._jitter(),
                once=self._limits.once,
            )
            if isinstance(error, Permanent):
                decision = replace(decision, next=retry.Next.FAIL)
            elif isinstance(error, NeedsOperator) and decision.next is not retry.Next.HOLD:
                decision = replace(decision, next=retry.Next.HOLD, wait_s=PERSON_PROBE_S)
            elif decision.next is retry.Next.PARK and self._limits.once:
                decision = replace(decision, wait_s=ONCE_PARKED_S)
            run.ended = await self._carry_out(run, error, decision)
        except LeaseLost:
            return self._superseded(run)
        return run.ended

    async def _carry_out(self, run: _Run, error: JobError, decision: retry.Decision) -> Outcome:
        job, why = run.job, str(error)
        if error.kind is Kind.TOO_LARGE and run.call in (Call.PRESIGN, Call.PUT_BODY):
            decision = self._learn_cap(run, decision)
        if isinstance(error, Permanent) and error.kind is Kind.LOCAL_READ:
            await self._lanes.db(
                self._store.files.mark_unreadable,
                job.root_id, job.rel_path, why, self._clock.now_ms(),
            )  # fmt: skip
        fields: dict[str, Any] = {
            "kind": str(error.kind), "error": why, "wait_s": decision.wait_s
        }  # fmt: skip
        match decision.next:
            case retry.Next.HOLD:
                with suppress(LeaseLost):  # what the server asked for holds for the others, too
                    await self._db(self._store.jobs.release, job, why=why, advice=error.advice)
                self._log.error("job.held", **fields)
                return Outcome(End.HELD, error, decision.wait_s)
            case retry.Next.HOLD_LARGE:
                await self._db(
                    self._store.jobs.release, job, why=why, advice=error.advice, held_class="large"
                )
                self._log.warning("job.needs_sign_in", **fields)
                return Outcome(End.NEEDS_SIGN_IN, error)
            case retry.Next.FAIL:
                await self._db(
                    self._store.jobs.reject, job, kind=error.kind, why=why, advice=error.advice
                )
                self._log.error("job.failed", **fields, advice=error.advice)
                return Outcome(End.FAILED, error, fuse=decision.fuse)
            case retry.Next.SUPERSEDE:
                return await self._moved(run, error)
            case retry.Next.STOP:
                raise StateError(why)
            case retry.Next.RESEND:
                await self._db(self._store.jobs.drop_parts, job)
            case retry.Next.FRESH_UPLOAD:
                run.job = await self._db(
                    self._store.jobs.fresh_upload, job, gone=error.kind is Kind.UPLOAD_GONE
                )
            case retry.Next.LOOK_UP:
                # Where looking helps it was done in the step itself; here only time may.
                decision = replace(decision, wait_s=LOOK_LATER_S)
        await self._db(
            self._store.jobs.retry,
            run.job,
            run_after=self._clock.now_ms() + int(decision.wait_s * 1000),
            kind=error.kind,
            why=why,
            advice=error.advice,
            free=decision.free,
        )
        self._meter.count(Tally.RETRY, "job")
        self._log.warning("job.retry_scheduled", **fields)
        return Outcome(End.LATER, error, decision.wait_s)

    def _learn_cap(self, run: _Run, decision: retry.Decision) -> retry.Decision:
        """The server refused this size in one request: remember, and take the other way if there is one."""
        if run.job.fingerprint.size > self._single_put_limit:
            return decision  # this was the other way
        self._single_put_limit = min(self._single_put_limit, run.job.fingerprint.size - 1)
        if self._credentials.is_session and self._api.multipart_available:
            return replace(decision, next=retry.Next.FRESH_UPLOAD, wait_s=0.0, free=True)
        return decision

    async def _moved(self, run: _Run, error: JobError) -> Outcome:
        try:
            unseen = isinstance(error, FileChanged) and error.unseen
            await self._db(self._store.jobs.supersede, run.job, why=str(error), unseen=unseen)
        except LeaseLost:
            return self._superseded(run)
        self._log.info("job.superseded", why=str(error))
        self._on_moved(run.job)
        return self._superseded(run)

    def _superseded(self, run: _Run) -> Outcome:
        self._meter.drop(run.job.id)
        run.ended = Outcome(End.SUPERSEDED)
        return run.ended

    async def _released(self, run: _Run, *, why: str | None = None) -> Outcome:
        try:
            await self._db(self._store.jobs.release, run.job, why=why or self._why_leaving)
        except LeaseLost:
            return Outcome(End.LOST)
        self._log.info("job.released")
        return Outcome(End.RELEASED)

    # -- small helpers ---------------------------------------------------------------------------

    async def _missing(self, job: Job) -> list[Part]:
        assert job.part_size is not None, "an open upload has a part size"
        etags = await self._lanes.db(self._store.jobs.etags, job)
        return missing_parts(plan_parts(job.fingerprint.size, job.part_size), etags)

    def _tell_parts(self, job: Job, missing: list[Part]) -> None:
        assert job.part_count is not None, "an open upload has a part count"
        sent = job.fingerprint.size - sum(part.size for part in missing)
        self._meter.parts(job.id, job.part_count, [part.number for part in missing], sent)

    async def _note(self, job: Job, **facts: object) -> Job:
        return await self._lanes.db(self._store.jobs.note, job, self._clock.now_ms(), **facts)

    async def _contact(self, side: Side = Side.API) -> None:
        if self.on_contact is not None:
            await self.on_contact(side)

    async def _db(self, call: Callable[..., Any], job: Job, *args: Any, **kwargs: Any) -> Any:
        """A write of the store: (job, …, now)."""
        return await self._lanes.db(call, job, *args, now_ms=self._clock.now_ms(), **kwargs)


def _require_allowed(allowed: bool) -> None:
    """
    Go on only where bytes may leave.

    Raises:
        Permanent: A plan says that none do, and the catalog does not spare them any more.
    """
    if not allowed:
        raise Permanent(
            "the plan sends none of its bytes, and the catalog does not hold them there any more",
            kind=Kind.CONFLICT,
            advice="Make a new plan.",
        )


def _upload_of(job: Job) -> Multipart:
    facts = (job.upload_id, job.storage_key, job.part_size, job.part_count)
    assert None not in facts, "opened before"
    return Multipart(*facts)  # type: ignore[arg-type]


def _urgency(error: BaseException) -> int:
    """
    Which of several errors decides: what ends everything, what concerns all jobs, what ends this one.

    A file that changed is found to have changed again; that a server asked for peace is heard once.
    """
    order = (StateError, Hold, LeaseLost, hashing.Stopped, FileChanged)
    return next((i for i, kind in enumerate(order) if isinstance(error, kind)), len(order))


__all__ = ["End", "Limits", "Outcome", "Route", "Worker"]
