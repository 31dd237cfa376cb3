"""The job queue in SQLite against a model in a dict, for any order of events."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from syncd.core.jobs.states import LIVE, TRANSITIONS
from syncd.errors import LeaseLost
from syncd.store.files import Wanted
from syncd.store.store import Store
from syncd.types import (
    Event,
    FileDigests,
    Fingerprint,
    FoundFile,
    Job,
    Kind,
    KnownFile,
    Remark,
    State,
    Target,
    Verdict,
)
from tests.claims import claim_one
from tests.scale import scaled

PATHS = st.sampled_from(["loras/a", "loras/A", "loras/b", "loras/\udce9\n"])  # a and A clash
DELAYS = st.integers(0, 150)
DIGESTS = FileDigests(10, "0" * 64, b"l" * 16)


@dataclass(slots=True)
class Wish:
    """The expected content of a job row."""

    path: str
    run_after: int
    state: State = State.QUEUED
    attempt: int = 0
    holder: str | None = None


def shown(job: Job) -> Wish:
    return Wish(
        job.rel_path,
        job.run_after,
        job.state,
        job.attempt,
        job.lease_owner,
    )


def clash_key(path: str) -> str:
    return f"models/{path}".encode("utf-8", "replace").decode().casefold()


class Queue(RuleBasedStateMachine):
    """The rules are the calls of the daemon."""

    leases: Bundle[Job] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.state_dir = tempfile.mkdtemp(prefix="syncd-queue-")
        self.store = Store(self.state_dir)
        self.root_id = self.store.files.root_id("/models")
        self.now = 1_000
        self.version = 0
        self.jobs: dict[int, Wish] = {}
        self.files: dict[str, Verdict] = {}
        self.holders: set[str | None] = {None}

    def teardown(self) -> None:
        self.store.close()
        try:
            self.check_events()
        finally:
            shutil.rmtree(self.state_dir)

    # -- files -----------------------------------------------------------------------------------

    def found(self, path: str) -> FoundFile:
        self.version += 1
        return FoundFile(self.root_id, path, Fingerprint(1, 2, 10, self.version, 3), 10)

    @rule(path=PATHS)
    def admit(self, path: str) -> None:
        found, key = self.found(path), clash_key(path)
        target = Target(key, "loras", "name", "name")
        admission = self.store.files.admit([Wanted(found, target, key)], self.now)
        job_id = admission.jobs.get((self.root_id, path))

        rivals = [p for p in self.files if p != path and self.contends(p, key)]
        self.replace_live(path)
        for rival in rivals:
            self.replace_live(rival)
            self.files[rival] = Verdict.CONFLICT
        self.files[path] = Verdict.CONFLICT if rivals else Verdict.WANTED
        assert (job_id is None) == bool(rivals)
        if job_id is not None:
            assert job_id not in self.jobs
            self.jobs[job_id] = Wish(path, self.now)

    @rule(path=PATHS)
    def judge(self, path: str) -> None:
        self.store.files.judge([(self.found(path), Verdict.IGNORED, "reason", None)], self.now)

        self.gives_way(path)
        self.files[path] = Verdict.IGNORED

    @rule(path=PATHS)
    def forget(self, path: str) -> None:
        self.store.files.forget([self.known(path)], self.now)

        self.gives_way(path)
        self.files.pop(path, None)

    def known(self, path: str) -> KnownFile:
        verdict = self.files.get(path, Verdict.WANTED)
        return KnownFile(self.root_id, path, Fingerprint(1, 2, 10, 0, 3), verdict)

    def contends(self, path: str, key: str) -> bool:
        return clash_key(path) == key and self.files[path] is not Verdict.IGNORED

    def gives_way(self, path: str) -> None:
        self.replace_live(path)
        if self.files.get(path) is Verdict.CONFLICT:
            for other in [p for p in self.files if self.contends(p, clash_key(path))]:
                del self.files[other]

    def replace_live(self, path: str) -> None:
        for wish in self.jobs.values():
            if wish.path == path and Event.REPLACE in TRANSITIONS[wish.state]:
                wish.state, wish.holder = State.SUPERSEDED, None

    # -- leases ----------------------------------------------------------------------------------

    @rule(target=leases, owner=st.sampled_from(["x", "y"]))
    @precondition(lambda self: self.due() is not None)
    def claim(self, owner: str) -> Job:
        job, due = claim_one(self.store, owner, self.now), self.due()
        assert job is not None
        assert job.id == due

        wish = self.jobs[job.id]
        wish.state, wish.holder = State.LEASED, job.lease_owner
        wish.attempt += 1
        assert job.lease_owner not in self.holders  # every claim has its own owner
        self.holders.add(job.lease_owner)
        return job

    @rule()
    @precondition(lambda self: self.due() is None)
    def nothing_is_due(self) -> None:
        assert claim_one(self.store, "x", self.now) is None

    def due(self) -> int | None:
        ready = [
            job_id  # all have the same priority and size
            for job_id, wish in self.jobs.items()
            if wish.state is State.QUEUED and wish.run_after <= self.now
        ]
        return min(ready, default=None)

    @rule(job=leases)
    def check_lease(self, job: Job) -> None:
        assert self.store.jobs.is_ours(job) == (self.jobs[job.id].holder == job.lease_owner)

    @rule(job=consumes(leases), free=st.booleans(), delay=DELAYS)
    def retry(self, job: Job, free: bool, delay: int) -> None:
        def write() -> None:
            self.store.jobs.retry(
                job,
                self.now,
                run_after=self.now + delay,
                kind=Kind.NETWORK,
                reason="reset",
                advice=None,
                free=free,
            )

        if self.write(job, write):
            self.end(job, State.QUEUED, spent=not free, run_after=self.now + delay)

    @rule(job=consumes(leases))
    def release(self, job: Job) -> None:
        if self.write(job, lambda: self.store.jobs.release(job, self.now, reason="stop")):
            self.end(job, State.QUEUED, spent=False, run_after=self.now)

    @rule(job=consumes(leases))
    def finish(self, job: Job) -> None:
        def write() -> None:
            planned = self.store.jobs.note_digests(job, DIGESTS, self.now)
            self.store.jobs.finish(planned, "rec", self.now, adopted=False)

        if self.write(job, write):
            self.end(job, State.DONE)
            assert self.store.records.claim(job.target.model_path, DIGESTS.sha256) == "rec"

    @rule(job=consumes(leases))
    def reject(self, job: Job) -> None:
        def write() -> None:
            self.store.jobs.reject(
                job, self.now, kind=Kind.REQUEST_REFUSED, reason="no", advice=None
            )

        if self.write(job, write):
            self.end(job, State.FAILED)

    @rule(job=consumes(leases))
    def supersede(self, job: Job) -> None:
        if self.write(job, lambda: self.store.jobs.supersede(job, self.now, reason="moved")):
            self.end(job, State.SUPERSEDED)
            self.files.pop(job.rel_path, None)

    def write(self, job: Job, write: Callable[[], None]) -> bool:
        """Require that only the current owner of a valid lease may do it."""
        if self.jobs[job.id].holder == job.lease_owner:
            write()
            return True
        with pytest.raises(LeaseLost):
            write()
        return False

    def end(
        self, job: Job, state: State, *, spent: bool = True, run_after: int | None = None
    ) -> None:
        wish = self.jobs[job.id]
        wish.state, wish.holder = state, None
        wish.attempt -= not spent
        wish.run_after = wish.run_after if run_after is None else run_after

    # -- the daemon ------------------------------------------------------------------------------

    @rule(ms=DELAYS)
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule()
    def restart(self) -> None:
        """Open the database again after a kill; the new process owns no lease."""
        self.store.close()
        self.store = Store(self.state_dir)
        leased = self.leased(lambda wish: True)

        assert self.store.jobs.expire_all(self.now) == len(leased)
        self.give_back(leased)

    def leased(self, which: Callable[[Wish], bool]) -> list[Wish]:
        return [w for w in self.jobs.values() if w.state is State.LEASED and which(w)]

    def give_back(self, wishes: list[Wish]) -> None:
        for wish in wishes:
            wish.state, wish.run_after = State.QUEUED, self.now
            wish.holder = None

    @rule()
    def requeue_failed(self) -> None:
        failed = [wish for wish in self.jobs.values() if wish.state is State.FAILED]

        assert self.store.jobs.requeue_failed(self.now, reason="asked to") == len(failed)
        for wish in failed:
            wish.state, wish.attempt, wish.run_after = State.QUEUED, 0, self.now

    # -- the user --------------------------------------------------------------------------------

    @rule(path=PATHS)
    def cancel(self, path: str) -> None:
        for job_id, wish in self.jobs.items():
            if wish.path == path and Event.CANCEL in TRANSITIONS[wish.state]:
                self.store.jobs.cancel(job_id, self.now)
                wish.state, wish.holder = State.CANCELLED, None

    @rule(path=PATHS)
    def retry_now(self, path: str) -> None:
        for job_id, wish in self.jobs.items():
            if wish.path == path and wish.state in (State.FAILED, State.CANCELLED, State.QUEUED):
                self.store.jobs.retry_now(job_id, self.now)
                wish.state, wish.attempt, wish.run_after = State.QUEUED, 0, self.now

    # -- invariants -----------------------------------------------------------------------------

    @invariant()
    def every_job_is_there_and_as_it_ought_to_be(self) -> None:
        assert {i: shown(self.store.jobs.get(i)) for i in self.jobs} == self.jobs

    @invariant()
    def a_path_has_one_live_job_at_most(self) -> None:
        live = [wish.path for wish in self.jobs.values() if wish.state in LIVE]
        assert len(live) == len(set(live))

    @invariant()
    def every_file_has_its_verdict(self) -> None:
        known = self.store.files.known(self.root_id)
        assert {file.rel_path: file.verdict for file in known} == self.files

    def check_events(self) -> None:
        """The events of each job are transitions that end in its state."""
        connection = sqlite3.connect(f"{self.state_dir}/syncd.db")
        rows = connection.execute(
            "SELECT job_id, from_state, event, to_state FROM job_event ORDER BY id"
        ).fetchall()
        connection.close()
        at: dict[int, State] = {}
        for job_id, before, event, after in rows:
            assert before == at.get(job_id)
            if event in set(Remark):
                assert before == after == State.DONE
                continue
            if before is not None:
                assert TRANSITIONS[State(before)][Event(event)] == after
            at[job_id] = State(after)
        assert at == {job_id: wish.state for job_id, wish in self.jobs.items()}


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=scaled(200), stateful_step_count=50, deadline=None)
