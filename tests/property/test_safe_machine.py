"""
``syncd safe`` compared with a count of files and records, in every state that the queue reaches.

The count reads the files and the records of the sandbox, but nothing from syncd's database.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from syncd.cli.safe import as_document, examine
from syncd.config import loader
from syncd.config.rules import rules_for
from syncd.core.catalog.drift import Drift
from syncd.core.files.search_paths import Folder, Tree
from syncd.core.files.settling import Windows
from syncd.errors import LeaseLost
from syncd.executors import Executors
from syncd.ingest.comparer import Comparer, Root
from syncd.ingest.dry_run import make_plan
from syncd.ingest.ingester import Ingester
from syncd.ingest.settle_tracker import SettleTracker
from syncd.monitoring.progress import Meter
from syncd.sandbox.server import Sandbox
from syncd.store.store import Store
from syncd.types import FileDigests, HeldClass, Job, Kind
from tests.accounts import set_override
from tests.claims import claim_one
from tests.fakes import FakeClock
from tests.scale import scaled
from tests.visitor import Visitor, good
from tests.weights import weights

WINDOW_S = 10.0

RIVALS = ("loras/a.safetensors", "loras/A.safetensors")
BELOW_MODELS = (
    *RIVALS,
    "loras/é.safetensors",
    "loras/linked.safetensors",
    "vae/b.pt",
    "vae/c.safetensors",
    "checkpoints/d.safetensors",
    "loras/card.png",
    "loras/e.safetensors.part",
)
"""``checkpoints`` links to a folder outside, ``linked.safetensors`` to a file outside."""
ELSEWHERE = "a.safetensors"
"""Below a folder of extra_model_paths: shadowed by the first of RIVALS, and in conflict with the other."""

PLACES = st.sampled_from([*BELOW_MODELS, f"more:{ELSEWHERE}"])
WHOLE = [weights(b"1" * 40), weights(b"2" * 50), weights(b"3" * 60)]
# Sizes differ, so that two writes within a tick of the file system's clock differ as well.
CONTENTS = st.sampled_from([*WHOLE, WHOLE[0][:-10], b""])


@dataclass(frozen=True, slots=True)
class Counted:
    """What can be lost, by the name that ``safe`` shows; sizes in bytes."""

    wanted: Mapping[str, int]
    at_risk: Mapping[str, int]
    left_out: int


class Machine:
    """A tree, a state directory and a catalog."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="syncd-safe-"))
        self.models, self.more = self.folder / "models", self.folder / "more"
        for name in ("models/loras", "models/vae", "more", "disk", "outside"):
            (self.folder / name).mkdir(parents=True)
        (self.models / "checkpoints").symlink_to(self.folder / "disk")
        (self.models / "loras/linked.safetensors").symlink_to(self.folder / "outside/file")
        for kept in (self.models / "loras/kept.safetensors", self.more / "kept.safetensors"):
            kept.write_bytes(weights(os.fsencode(kept)))  # an empty tree is not examined
        self._closing = ExitStack()
        self.cloud = self._closing.enter_context(Sandbox(self.folder / "cloud"))
        self.visitor = self._closing.enter_context(Visitor(self.cloud))
        self.loaded = self._load()

    def close(self) -> None:
        self._closing.close()
        os.chmod(self.models / "vae", 0o700)
        shutil.rmtree(self.folder)

    def _load(self) -> loader.Loaded:
        yaml, toml = self.folder / "extra.yaml", self.folder / "config.toml"
        yaml.write_text(f"other:\n  loras: {self.more}\n")
        toml.write_text(
            f'models_dir = "{self.models}"\nstate_dir = "{self.folder}/state"\n'
            f'[api]\nbase_url = "{self.cloud.base_url}"\ntoken = "{self.cloud.device_key}"\n'
            f'[comfyui]\nextra_model_paths = "{yaml}"\n'
        )
        return loader.load(toml, {}, {"HOME": os.fspath(self.folder)})

    def ask(self, *, deep: bool) -> dict[str, Any]:
        """Return the output of ``syncd safe --json``."""
        return as_document(examine(self.loaded, make_plan(self.loaded), deep=deep), deep=deep)

    def path(self, place: str) -> Path:
        head, _, name = place.rpartition(":")
        return (self.more if head else self.models) / name

    def count(self) -> Counted:
        """Return all files, and those without an active record at their path."""
        held = {
            (record["model_path"], record["file_hash"])
            for record in self.cloud.records()
            if record["model_status"] == "active"
        }
        wanted, at_risk, left_out = dict[str, int](), dict[str, int](), 0
        for shown, model_path, path in self._files():
            size = path.stat().st_size
            if model_path is None:
                left_out += 1
                continue
            wanted[shown] = size
            if (model_path, f"sha256:{sha256(path)}") not in held:
                at_risk[shown] = size
        return Counted(wanted, at_risk, left_out)

    def _files(self) -> Iterator[tuple[str, str | None, Path]]:
        """Yield the name, the model_path (None: shadowed) and the path of each model."""
        for name in (*BELOW_MODELS, "loras/kept.safetensors"):
            path = self.models / name
            if name.endswith((".safetensors", ".pt")) and is_model(path):
                yield name, f"models/{name}", path
        for name in (ELSEWHERE, "kept.safetensors"):
            path = self.more / name
            if is_model(path):
                shadowed = (self.models / "loras" / name).is_file()
                yield str(path), None if shadowed else f"models/loras/{name}", path


def is_model(path: Path) -> bool:
    return os.path.isfile(path) and path.stat().st_size > 0


def sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except PermissionError:
        return None


def identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Safe(RuleBasedStateMachine):
    """The rules are the actions of programs, the daemon, the operator and other machines."""

    leases: Bundle[Job] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        set_override(False)  # root can read every file
        self.machine = Machine()
        self.clock, self.lanes = FakeClock(), Executors(files=1, slots=1)
        self.registered: dict[str, tuple[int, ...] | None] = {}
        self.open_store()

    def teardown(self) -> None:
        self.lanes.close()
        self.store.close()
        self.machine.close()
        set_override(True)

    def open_store(self) -> None:
        machine = self.machine
        self.store = Store(os.fspath(machine.folder / "state"))
        models, more = os.fspath(machine.models), os.fspath(machine.more)
        ids = [self.store.files.root_id(models), self.store.files.root_id(more, type_key="loras")]
        self.models = Root(ids[0], models, network=False)
        self.more = Root(ids[1], more, network=False, type_key="loras")
        self.roots = {root.id: root for root in (self.models, self.more)}
        self.comparer = Comparer(
            self.roots,
            files=self.store.seen,
            symlinks="follow",
            tree=Tree(ids[0], [(ids[1], Folder("loras", more, os.path.realpath(more)))]),
            rules_of=lambda root: rules_for(
                machine.loaded.settings, root.path, type_key=root.type_key
            ),
        )
        self.intake = Ingester(
            self.roots,
            comparer=self.comparer,
            store=self.store,
            lanes=self.lanes,
            clock=self.clock,
            tracker=SettleTracker(
                self.roots,
                clock=self.clock,
                meter=Meter(),
                windows=lambda: Windows(WINDOW_S, WINDOW_S, WINDOW_S),
            ),
            meter=Meter(),
            read_lease=lambda: False,
            on_queued=lambda: None,
            on_freed=lambda hint: None,
        )

    @initialize(files=st.dictionaries(PLACES, CONTENTS, min_size=3), sent=st.integers(0, 4))
    def begin(self, files: dict[str, bytes], sent: int) -> None:
        """Start with some files, some of them registered."""
        for place, content in files.items():
            self.write(place, content)
        self.walk(settled=True)
        self.send_some(sent)

    # -- programs --------------------------------------------------------------------------------

    @rule(place=PLACES, content=CONTENTS)
    def write(self, place: str, content: bytes) -> None:
        path = self.machine.path(place)
        with suppress(OSError):  # the disk is missing or the folder is unreadable
            os.chmod(path, 0o600)
        with suppress(OSError):
            path.write_bytes(content)

    @rule(place=PLACES)
    def delete(self, place: str) -> None:
        if place != "loras/linked.safetensors":
            with suppress(OSError):
                self.machine.path(place).unlink()

    @rule(place=PLACES, other=PLACES)
    def rename(self, place: str, other: str) -> None:
        if "loras/linked.safetensors" not in (place, other):
            with suppress(OSError):
                self.machine.path(place).rename(self.machine.path(other))

    @rule(place=PLACES, mode=st.sampled_from([0o000, 0o600]))
    def permit(self, place: str, mode: int) -> None:
        with suppress(OSError):
            os.chmod(self.machine.path(place), mode)

    @rule(mode=st.sampled_from([0o000, 0o700]))
    def permit_folder(self, mode: int) -> None:
        os.chmod(self.machine.models / "vae", mode)

    @rule()
    def switch_disk(self) -> None:
        disk, off = self.machine.folder / "disk", self.machine.folder / "off"
        disk.rename(off) if disk.exists() else off.rename(disk)

    # -- the daemon ------------------------------------------------------------------------------

    @rule(settled=st.booleans())
    def walk(self, settled: bool) -> None:
        """Walk the tree; unless *settled*, new files are still settling."""
        for root in self.roots.values():
            asyncio.run(self.intake.scan(root))
        if settled:
            self.clock.advance(2 * WINDOW_S)
            asyncio.run(self.intake.process([]))

    @rule(target=leases)
    @precondition(lambda self: self.is_due())
    def lease(self) -> Job:
        return self.claim()

    def claim(self) -> Job:
        job = claim_one(self.store, "x", self.clock.now_ms())
        assert job is not None
        return job

    def is_due(self) -> bool:
        due = self.store.jobs.next_due_ms()
        return due is not None and due <= self.clock.now_ms()

    @rule(most=st.integers(1, 4))
    def send_some(self, most: int) -> None:
        """Walk the tree, then run a number of jobs."""
        self.walk(settled=True)
        for _ in range(most):
            if self.is_due():
                self.work(self.claim())

    @rule(job=consumes(leases))
    def work(self, job: Job) -> None:
        """Do the work of a worker at once."""
        root, now = self.roots[job.root_id], self.clock.now_ms()
        path = Path(root.path, job.rel_path)
        with suppress(LeaseLost, PermissionError):
            found = self.comparer.find(root, job.rel_path)
            if found is None or not found.fingerprint.same_file_as(job.fingerprint):
                self.store.jobs.supersede(job, now, reason="moved")
            elif not os.access(path, os.R_OK, effective_ids=True):
                self.store.files.mark_unreadable(job.root_id, job.rel_path, "no", now)
                self.store.jobs.reject(
                    job, now, kind=Kind.LOCAL_READ_ERROR, reason="no", advice=None
                )
            else:
                self.send(job, path)

    def send(self, job: Job, path: Path) -> None:
        now, body = self.clock.now_ms(), path.read_bytes()
        plan = FileDigests(len(body), hashlib.sha256(body).hexdigest(), b"l" * 16)
        job = self.store.uploads.note_stored(self.store.jobs.note_digests(job, plan, now), now)
        record_id = self.machine.visitor.upload(body, job.target.model_path)
        self.store.jobs.finish(job, record_id, now, adopted=False)
        self.registered[os.fspath(path)] = identity(path)

    @rule(
        job=consumes(leases),
        how=st.sampled_from(["release", "hold", "retry", "reject", "damage"]),
    )
    def end(self, job: Job, how: str) -> None:
        jobs, now = self.store.jobs, self.clock.now_ms()
        row: dict[str, Any] = {"kind": Kind.NETWORK, "reason": "reset", "advice": None}
        with suppress(LeaseLost):
            if how in ("release", "hold"):
                held = HeldClass.LARGE if how == "hold" else None
                jobs.release(job, now, reason="stop", held_class=held)
            elif how == "retry":
                jobs.retry(job, now, run_after=now + 50, free=False, **row)
            elif how == "reject":
                jobs.reject(job, now, **row)
            else:
                self.store.files.mark_incomplete(job, "other bytes", now)

    @rule(seconds=st.sampled_from([0.05, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open_store()
        self.store.jobs.expire_all(self.clock.now_ms())
        self.store.jobs.start_over(self.clock.now_ms())
        self.store.jobs.free_class(HeldClass.LARGE, self.clock.now_ms())

    @rule()
    def reconcile(self) -> None:
        """Compare the own records with the catalog."""
        listed = {record["id"]: record for record in self.machine.cloud.records()}
        drifts: dict[str, Drift | None] = {}
        for standing in self.store.records.standing():
            record = listed.get(standing.record_id)
            if record is None:
                drifts[standing.record_id] = Drift.MISSING
            else:
                active = record["model_status"] == "active"
                drifts[standing.record_id] = None if active else Drift.DISABLED
        self.store.records.note_checked(drifts, self.clock.now_ms())

    # -- the operator, and others ----------------------------------------------------------------

    @rule(days=st.sampled_from([0, 30]))
    def gc(self, days: int) -> None:
        now = self.clock.now_ms() + 1
        self.store.upkeep.give_up_uploads(now)
        self.store.upkeep.drop_old(now - days * 86_400_000)

    @rule(place=PLACES, order=st.sampled_from(["cancel", "retry_now", "bump"]))
    def steer(self, place: str, order: str) -> None:
        for named in self.store.report.places(os.fspath(self.machine.path(place))):
            job = None if named.job_id is None else self.store.jobs.get(named.job_id)
            if job is not None and job.state in ("queued", "leased", "failed"):
                getattr(self.store.jobs, order)(job.id, self.clock.now_ms())

    @rule(place=PLACES)
    def send_again(self, place: str) -> None:
        for named in self.store.report.places(os.fspath(self.machine.path(place))):
            self.registered.pop(os.fspath(self.machine.path(place)), None)
            self.store.jobs.send_again(*named.key, self.clock.now_ms())

    @rule(at=st.integers(0, 5), deed=st.sampled_from(["delete", "disabled", "active", "move"]))
    def change_record(self, at: int, deed: str) -> None:
        records, api = self.machine.cloud.records(), self.machine.visitor.api
        if at >= len(records):
            return
        one = f"/models/{records[at]['id']}"
        if deed == "delete":
            good(api.delete(one))
        elif deed == "move":
            api.put(one, json={"model_path": "models/vae/elsewhere.pt"})  # may be taken
        else:
            api.put(one, json={"model_status": deed})

    @rule(place=PLACES)
    def register_elsewhere(self, place: str) -> None:
        """Another machine registers the same bytes at the same path."""
        path = self.machine.path(place)
        model_path = "models/loras/a.safetensors" if ":" in place else f"models/{place}"
        if is_model(path) and sha256(path) is not None and model_path.isascii():
            self.machine.visitor.upload(path.read_bytes(), model_path)

    # -- invariants -----------------------------------------------------------------------------

    @invariant()
    def deep_is_the_count(self) -> None:
        counted, told = self.machine.count(), self.machine.ask(deep=True)

        assert {each["path"]: each["size"] for each in told["at_risk"]} == counted.at_risk
        assert told["files_at_risk"] == len(counted.at_risk)
        assert told["bytes_at_risk"] == sum(counted.at_risk.values())
        self.check_totals(told, counted)

    @invariant()
    def stat_is_the_count_of_what_did_not_change(self) -> None:
        counted, told = self.machine.count(), self.machine.ask(deep=False)
        at_risk = {each["path"]: each["size"] for each in told["at_risk"]}

        assert counted.at_risk.items() <= at_risk.items()
        doubtful = {name for name in counted.wanted if not self.is_unchanged(name)}
        assert at_risk.keys() - doubtful == counted.at_risk.keys() - doubtful
        assert told["bytes_at_risk"] == sum(at_risk.values())
        self.check_totals(told, counted)

    def is_unchanged(self, name: str) -> bool:
        """Return whether the current file was registered and has no conflict since."""
        path = self.machine.models / name
        rival = name in RIVALS or name == os.fspath(self.machine.more / ELSEWHERE)
        return not rival and self.registered.get(os.fspath(path)) == identity(path)

    def check_totals(self, told: dict[str, Any], counted: Counted) -> None:
        machine = self.machine
        hidden = {
            name
            for name, is_hidden in (
                ("checkpoints", not (machine.folder / "disk").exists()),
                ("vae", not os.access(machine.models / "vae", os.R_OK, effective_ids=True)),
            )
            if is_hidden
        }
        dangerous = told["at_risk"] or hidden or (counted.left_out and not counted.wanted)
        assert {each["path"] for each in told["unexamined"]} == hidden
        assert told["files_wanted"] == len(counted.wanted)
        assert told["bytes_wanted"] == sum(counted.wanted.values())
        assert told["skipped"]["files"] == counted.left_out
        assert (told["safe"], told["exit_code"]) == ((False, 1) if dangerous else (True, 0))


TestI32Safe = Safe.TestCase
TestI32Safe.settings = settings(
    max_examples=scaled(10),
    stateful_step_count=30,
    deadline=None,
)
