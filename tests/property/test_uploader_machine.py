"""
The upload steps and the store against a simulated cloud: any responses and kills in any order (T3).

The steps and the store are real; the calls between them are simulated. The cloud refuses to register content
that it does not have, and to register the same content twice.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from syncd.core.jobs.parts import Route, missing_parts, plan_parts
from syncd.core.jobs.steps import Step, next_step
from syncd.errors import LeaseLost
from syncd.store.files import Wanted
from syncd.store.store import Store
from syncd.types import FileDigests, Fingerprint, FoundFile, Job, Kind, Multipart, State, Target
from tests.memory import folder
from tests.scale import MACHINE_STEPS, SCALE

T = TypeVar("T")

SIZE, PART_SIZE = 30, 12
PARTS = plan_parts(SIZE, PART_SIZE)
PATH = "loras/a.pt"
TARGET = Target(f"models/{PATH}", "loras", "a.pt", "a")


class Answer(StrEnum):
    """The result of one request."""

    GOOD = "good"
    REFUSED = "refused"  # no effect, and the program knows
    LOST = "lost"  # an effect, but no response
    DEADLY = "deadly"  # an effect, and the program dies before it commits


class Failed(Exception):
    """The request was refused, or its response was lost."""


class Died(Exception):
    """The program died; nothing more is committed."""


@dataclass
class Cloud:
    """The state of the simulated cloud."""

    keys: dict[str, str] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, set[int]] = field(default_factory=dict)
    records: dict[str, str] = field(default_factory=dict)
    parts_taken: list[tuple[str, int]] = field(default_factory=list)

    def presign(self, sha256: str) -> str:
        key = f"k{len(self.keys)}"
        self.keys[key] = sha256
        return key

    def put(self, key: str) -> None:
        self.objects.setdefault(key, self.keys[key])  # If-None-Match: an existing object counts

    def initiate(self, key: str) -> str:
        upload_id = f"{key}.u{len(self.uploads)}"
        self.uploads[upload_id] = set()
        return upload_id

    def part(self, upload_id: str, number: int) -> str:
        self.uploads[upload_id].add(number)
        self.parts_taken.append((upload_id, number))
        return f'"{upload_id}.{number}"'

    def complete(self, upload_id: str, etags: dict[int, str]) -> None:
        assert self.uploads[upload_id] == {part.number for part in PARTS} == etags.keys()
        assert all(etag == f'"{upload_id}.{number}"' for number, etag in etags.items())
        self.put(upload_id.partition(".")[0])

    def register(self, key: str, sha256: str) -> str:
        assert self.objects[key] == sha256, "registered before it was stored"
        assert key not in self.records, "registered twice"
        self.records[key] = f"r.{key}"
        return self.records[key]


class Uploader(RuleBasedStateMachine):
    """The rules are the steps of the program and the events around it."""

    @initialize(route=st.sampled_from([Route.PUT, Route.MULTIPART]), beside=st.booleans())
    def begin(self, route: Route, beside: bool) -> None:
        self.route, self.beside = route, beside
        self.places = contextlib.ExitStack()
        self.state_dir = str(self.places.enter_context(folder()))
        self.store = Store(self.state_dir)
        self.root_id = self.store.files.root_id("/models")
        self.cloud, self.now, self.version = Cloud(), 1_000, 0
        self.job: Job | None = None
        self.key_in_memory: str | None = None
        self.committed: set[tuple[str, int]] = set()
        self.replace()

    def teardown(self) -> None:
        """At the end, a cloud that responds must have the current file in the catalog."""
        if not hasattr(self, "store"):
            return
        for _ in range(20):
            self.now += 1
            self.step(Answer.GOOD)
        newest = self.store.jobs.get(self.newest)
        held = [self.cloud.objects[key] for key in self.cloud.records]
        self.store.close()
        self.places.close()

        assert newest.state is State.DONE
        assert held.count(self.sha256) == 1
        assert len(set(held)) == len(held)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(b"%d" % self.version).hexdigest()

    # -- events ----------------------------------------------------------------------------------

    @rule()
    def replace(self) -> None:
        """The file changes, and the next walk queues it."""
        self.version += 1
        found = FoundFile(self.root_id, PATH, Fingerprint(1, 2, SIZE, self.version, 3), SIZE)
        admission = self.store.files.admit([Wanted(found, TARGET, PATH)], self.now)
        (self.newest,) = admission.jobs.values()

    @rule()
    def die(self) -> None:
        self.store.close()
        self.store = Store(self.state_dir)
        self.store.jobs.expire_all(self.now)
        self.job = self.key_in_memory = None

    @rule(ms=st.integers(1, 30))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @precondition(lambda self: self.job is not None)
    @rule()
    def upload_is_given_up(self) -> None:
        """The object store discards the upload."""
        with self.while_ours():
            assert self.job is not None
            if self.job.stored_at is None and self.job.register_sent_at is None:
                self.job = self.store.uploads.fresh_upload(self.job, self.now, gone=True)
                self.key_in_memory = None

    # -- the program -----------------------------------------------------------------------------

    @rule(well=st.integers(0, 8), answer=st.sampled_from(Answer))
    def work(self, well: int, answer: Answer) -> None:
        """Run some successful steps and one that may fail, so that jobs get far."""
        for each in (*[Answer.GOOD] * well, answer):
            self.now += 1
            self.step(each)

    def step(self, answer: Answer) -> None:
        if self.job is None:
            self.job, self.key_in_memory = self.store.jobs.claim("w", self.now), None
            return
        with self.while_ours():
            try:
                self.go_on(answer)
            except Died:
                self.die()
            except Failed:
                self.later()

    def later(self) -> None:
        assert self.job is not None
        self.store.jobs.retry(
            self.job,
            self.now,
            run_after=self.now + 1,
            kind=Kind.NETWORK,
            reason="no answer",
            advice=None,
            free=True,
        )
        self.job = None

    @contextlib.contextmanager
    def while_ours(self) -> Iterator[None]:
        try:
            yield
        except LeaseLost:
            self.job = None

    def go_on(self, answer: Answer) -> None:
        job, jobs, uploads = self.job, self.store.jobs, self.store.uploads
        assert job is not None
        etags = uploads.etags(job)
        granted = self.key_in_memory is not None and self.key_in_memory == job.storage_key
        step = next_step(
            job,
            route=self.route,
            granted=granted,
            missing=len(missing_parts(PARTS, etags)) if job.upload_id else 0,
            known=False,
            movable=False,
            not_in_catalog=self.beside,
        )
        key, sha256 = job.storage_key or "", job.sha256 or ""
        content = hashlib.sha256(b"%d" % job.fingerprint.mtime_ns).hexdigest()
        if step is Step.HASH:
            self.job = jobs.note_digests(job, FileDigests(SIZE, content, b"l" * 16), self.now)
        elif step is Step.PRESIGN:
            self.key_in_memory = self.ask(answer, lambda: self.cloud.presign(content))
            self.job, usable = uploads.note_key(job, self.key_in_memory, self.now)
            assert usable
        elif step is Step.PUT:
            job = jobs.note(job, self.now, body_sent_at=self.now)
            self.ask(answer, lambda: self.cloud.put(key))
            self.job = uploads.note_stored(job, self.now)
        elif step is Step.INITIATE:
            upload_id = self.ask(answer, lambda: self.cloud.initiate(key))
            upload = Multipart(upload_id, key, PART_SIZE, len(PARTS))
            self.job = uploads.note_upload(job, upload, self.now)
        elif step is Step.PARTS:
            upload_id, part = job.upload_id or "", missing_parts(PARTS, etags)[0]
            assert (upload_id, part.number) not in self.committed, "sent again"
            etag = self.ask(answer, lambda: self.cloud.part(upload_id, part.number))
            uploads.note_part(job, part, etag, b"l" * 16, self.now)
            self.committed.add((upload_id, part.number))
        elif step is Step.COMPLETE:
            upload_id = job.upload_id or ""
            job = jobs.note(job, self.now, complete_sent_at=self.now)
            self.ask(answer, lambda: self.cloud.complete(upload_id, etags))
            self.job = uploads.note_stored(job, self.now)
        elif step is Step.REGISTER:
            job = jobs.note(job, self.now, register_sent_at=self.now)
            record_id = self.ask(answer, lambda: self.cloud.register(key, sha256))
            self.job = jobs.note(job, self.now, record_id=record_id)
        elif step is Step.LOOK_UP:
            listed = self.ask(answer, lambda: self.cloud.records.get(key))
            facts = {"record_id": listed} if listed else {"register_sent_at": None}
            self.job = jobs.note(job, self.now, **facts)
        else:
            assert step is Step.FINISH
            jobs.finish(job, job.record_id or "", self.now, adopted=False)
            self.job = None

    def ask(self, answer: Answer, request: Callable[[], T]) -> T:
        if answer is Answer.REFUSED:
            raise Failed
        said = request()
        if answer is Answer.LOST:
            raise Failed
        if answer is Answer.DEADLY:
            raise Died
        return said

    # -- invariants -----------------------------------------------------------------------------

    @invariant()
    def facts_are_true(self) -> None:
        """Every committed fact agrees with the cloud."""
        if not hasattr(self, "store"):
            return
        job = self.store.jobs.get(self.newest)
        if job.stored_at is not None:
            assert self.cloud.objects[job.storage_key or ""] == job.sha256
        if job.record_id is not None:
            assert self.cloud.records[job.storage_key or ""] == job.record_id
        assert job.state is not State.DONE or job.record_id is not None


TestUploader = Uploader.TestCase
TestUploader.settings = settings(
    max_examples=SCALE.machine_runs, stateful_step_count=MACHINE_STEPS, deadline=None
)
