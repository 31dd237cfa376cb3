"""
Runs a claimed job step by step until it ends or has to wait, and checks its lease.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from syncd.core.jobs.error_mapping import to_error
from syncd.core.jobs.outcome import End, Outcome, Side
from syncd.core.jobs.steps import Step, next_step
from syncd.errors import FileChanged, JobError, LeaseLost, Permanent, StateError
from syncd.fs import hashing
from syncd.monitoring.progress import Tally
from syncd.types import Job, Kind
from syncd.upload import failures, file_steps, part_sender, register_steps, store_steps
from syncd.upload.context import DAY_IS_FULL, STOPPED, DrainFlag, JobContext, Released, WorkerDeps

STEPS: Mapping[Step, Callable[[JobContext], Awaitable[None]]] = {
    Step.HASH: file_steps.hash_file,
    Step.ADOPT: register_steps.adopt,
    Step.MOVE: register_steps.move,
    Step.SIGN_IN: store_steps.sign_in,
    Step.PRESIGN: store_steps.presign,
    Step.PUT: store_steps.put,
    Step.INITIATE: store_steps.initiate,
    Step.PARTS: part_sender.send,
    Step.COMPLETE: store_steps.complete,
    Step.LOOK_UP: register_steps.look_up,
    Step.REGISTER: register_steps.register,
    Step.FINISH: register_steps.finish,
}
"""The function of each step. It commits what it found, or sets the outcome."""

LEASE_CHECK_S = 40.0
"""Between two checks that the job is still ours, while a step takes long."""

_LAST_STEPS = frozenset({Step.COMPLETE, Step.LOOK_UP, Step.REGISTER, Step.FINISH, Step.ADOPT})
"""Steps that still run during a shutdown: the bytes are stored, one small request is left."""

_SENDING_STEPS = frozenset({Step.PRESIGN, Step.INITIATE, Step.PUT, Step.PARTS})
"""Steps that need permission to send bytes."""

_log = structlog.get_logger(__name__)


class Worker:
    """
    Brings claimed jobs into the catalog, any number at once.

    Args:
        on_contact: Called after each good answer of the API or the object store.
    """

    def __init__(self, deps: WorkerDeps, *, on_contact: Callable[[Side], Awaitable[None]]) -> None:
        self._deps = deps
        self._on_contact = on_contact
        self._leaving = DrainFlag()
        self._runs: dict[int, JobContext] = {}
        self._checks: set[asyncio.Task[None]] = set()

    def wind_down(self, reason: str = STOPPED) -> None:
        """Let running requests end and give the other jobs back."""
        self._leaving.begin(reason)

    def carry_on(self) -> None:
        """End ``wind_down``; no job may be running."""
        self._leaving.end()

    def check_file(self, job_id: int) -> None:
        """Stop sending the file of a job if it has changed; called after each event at its path."""
        if (context := self._runs.get(job_id)) is not None:
            check = asyncio.create_task(file_steps.stop_if_moved(context))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def run(
        self, job: Job, send_allowed: Callable[[Job], bool] = lambda job: True
    ) -> Outcome:
        """
        Run a claimed job until it ends or has to wait.

        Cancellation stops the transfer and gives the job back; the attempt does not count.

        Raises:
            StateError: The store cannot be written.
        """
        context = JobContext(job, self._deps, self._leaving, self._on_contact, send_allowed)
        meter, clock = self._deps.meter, self._deps.clock
        self._runs[job.id] = context
        meter.begin(job)
        with structlog.contextvars.bound_contextvars(
            job_id=job.id, rel_path=job.rel_path, attempt=job.attempt
        ):
            _log.info("job.claimed", size=job.fingerprint.size)
            started_s = clock.boottime_s()
            try:
                outcome = await self._supervised(context)
            except asyncio.CancelledError:
                outcome = await failures.release(context, self._leaving.reason)
                meter.count(Tally.ENDED, outcome.end)
                raise
            finally:
                context.stop.set()
                # Once it is given back the job may be claimed again before this run is over.
                if self._runs.get(job.id) is context:
                    del self._runs[job.id]
                    _report_end(context)
            meter.count(Tally.ENDED, outcome.end)
            _log.info(
                "job.ended",
                end=str(outcome.end),
                seconds=round(clock.boottime_s() - started_s, 3),
                record_id=context.job.record_id,
            )
            return outcome

    # -- supervision -----------------------------------------------------------------------------

    async def _supervised(self, context: JobContext) -> Outcome:
        """Run the steps; a lost lease stops them."""
        work = asyncio.create_task(self._run_steps(context))
        lease = asyncio.create_task(_watch_lease(context))
        try:
            await asyncio.wait({work, lease}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                context.stop.set()
                work.cancel()
            await asyncio.wait({work})
            if lease.done() and not lease.cancelled() and lease.exception() is not None:
                lease.result()
            if work.cancelled():
                return failures.abandon(context)
            return work.result()
        finally:
            context.stop.set()
            for task in (work, lease):
                task.cancel()
            await asyncio.gather(work, lease, return_exceptions=True)

    async def _run_steps(self, context: JobContext) -> Outcome:
        """
        Take a claimed job to its record: choose the next step from the facts, run it, repeat.

        A small file goes through HASH, PRESIGN, PUT, REGISTER and FINISH; a large one through
        INITIATE, PARTS and COMPLETE in place of PUT. A resumed job starts at the first open step.
        """
        try:
            while context.ended is None:
                step = await _next(context)
                await self._require_may_begin(context, step)
                await STEPS[step](context)
            return context.ended
        except Released as reason:
            return await failures.release(context, str(reason), reason.wait_s)
        except hashing.Stopped:
            if context.stale is not None:
                return await failures.supersede(context, context.stale)
            if self._leaving.is_set() and not context.stop.is_set():
                return await failures.release(context, self._leaving.reason)
            return failures.abandon(context)
        except LeaseLost:
            return failures.abandon(context)
        except FileChanged as error:
            return await failures.supersede(context, error)
        except JobError as error:
            return await failures.handle_error(context, error)
        except (StateError, asyncio.CancelledError):
            raise
        except Exception as error:
            _log.exception("job.internal_error")
            bug = to_error(Kind.INTERNAL_ERROR, f"internal error: {type(error).__name__}")
            return await failures.handle_error(context, bug)

    async def _require_may_begin(self, context: JobContext, step: Step) -> None:
        """
        Require that *step* may begin now, and that bytes may be sent if it sends any.

        Raises:
            Released: It may begin later.
            Permanent: The plan sends no bytes, but the catalog no longer has them.
        """
        if self._leaving.is_set() and step not in _LAST_STEPS:
            raise Released(self._leaving.reason)
        if step not in _SENDING_STEPS:
            return
        if not context.send_allowed(context.job):
            raise Permanent(
                "the plan sends no bytes of this file, but the catalog no longer has them",
                kind=Kind.CONFLICT,
                advice="Make a new plan.",
            )
        if not await self._deps.transfer.may_send():
            raise Released(DAY_IS_FULL)


async def _next(context: JobContext) -> Step:
    """The next step, from the job's facts and the catalog."""
    job = context.job
    fresh = job.sha256 is not None and job.storage_key is None
    known = fresh and await register_steps.known(context) is not None
    movable = fresh and not known and await register_steps.movable(context) is not None
    missing = len(await part_sender.missing(context)) if job.upload_id is not None else 0
    context.route = context.deps.routes.of(job.fingerprint.size)
    not_in_catalog = job.sha256 is None and await register_steps.not_in_catalog(context)
    return next_step(
        job,
        route=context.route,
        granted=store_steps.has_url(context),
        missing=missing,
        known=known,
        movable=movable,
        not_in_catalog=not_in_catalog,
    )


async def _watch_lease(context: JobContext) -> None:
    """Return when the lease is lost: the file changed, or the job was cancelled."""
    deps = context.deps
    while True:
        await deps.clock.sleep(LEASE_CHECK_S)
        if not await deps.lanes.db(deps.store.jobs.is_ours, context.job):
            return


def _report_end(context: JobContext) -> None:
    """Report the outcome to the progress meter."""
    end = None if context.ended is None else context.ended.end
    context.deps.meter.end(
        context.job.id,
        registered=end is End.REGISTERED,
        adopted=end is End.ADOPTED,
        failed=end is End.FAILED,
    )
