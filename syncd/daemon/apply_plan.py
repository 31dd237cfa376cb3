"""
Applies a plan: checks each line's file or record again, and queues those that still match.

The queue and the workers do the rest. A line that no longer matches is refused; the others continue.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from syncd.clock import Clock
from syncd.cloud.client import CloudClient
from syncd.cloud.listing import Catalog
from syncd.core.catalog.drift import is_disabled, sha256_of
from syncd.core.catalog.plan_file import OF_FILES, SENDING_NOTHING, Line, PlanAction
from syncd.core.files import naming
from syncd.core.files.selection import Selected
from syncd.errors import JobError
from syncd.executors import Executors
from syncd.fs.mounts import mounts_in
from syncd.ingest.comparer import Comparer, Root, find_cut_off
from syncd.ingest.root_guard import changed_mounts
from syncd.maintenance.retire_records import RecordCleanup
from syncd.store.files import Wanted
from syncd.store.store import Store
from syncd.types import FoundFile, HeldClass, Job, State, Target, Verdict, printable


@dataclass(slots=True)
class Applied:
    """
    The result of each line of a plan; skipped lines are in none of the lists.

    ``sent`` is the number of bytes sent to the object store, including repeated ones.
    """

    done: list[Line] = field(default_factory=list)
    refused: list[tuple[Line, str]] = field(default_factory=list)
    left: list[tuple[Line, str]] = field(default_factory=list)
    sent: int = 0
    needs_operator: bool = False
    signal_code: int = 0

    @property
    def exit_code(self) -> int:
        """130 or 143 after a signal, else the first that applies of 77, 75, 1 and 0."""
        if self.signal_code:
            return self.signal_code
        if self.needs_operator:
            return 77
        return 75 if self.left else 1 if self.refused else 0


class _Refused(Exception):
    """The line no longer matches; the message is the reason."""


@dataclass(kw_only=True, slots=True)
class Applier:
    """
    Checks and queues the lines of a plan.

    Args:
        roots: By their ids in the store.
        hidden: Whether new records are disabled at once, so that a disabled record is as intended.
    """

    store: Store
    lanes: Executors
    api: CloudClient
    clock: Clock
    catalog: Catalog
    comparer: Comparer
    retirement: RecordCleanup
    roots: Mapping[int, Root]
    hidden: bool
    _queued: dict[int, Line] = field(default_factory=dict, init=False)
    applied: Applied = field(default_factory=Applied, init=False)

    async def begin(self, lines: Iterable[Line], *, stopped: Callable[[], bool]) -> None:
        """Carry out the lines of records, and queue those of files."""
        for line in lines:
            try:
                if stopped() and line.action is not PlanAction.SKIP:
                    self.applied.left.append((line, "syncd was stopped before"))
                elif line.action in OF_FILES:
                    await self._queue(line)
                elif line.action is not PlanAction.SKIP:
                    await self._retire(line)
            except _Refused as reason:
                self.applied.refused.append((line, str(reason)))
            except JobError as error:
                self.applied.left.append((line, str(error)))

    @property
    def jobs(self) -> frozenset[int]:
        """The ids of the jobs that the plan's lines became."""
        return frozenset(self._queued)

    def send_allowed(self, job: Job) -> bool:
        """Return whether the job's line lets bytes of its file be sent."""
        line = self._queued.get(job.id)
        return line is None or line.action not in SENDING_NOTHING

    async def end(self) -> Applied:
        """The results, after the jobs have run."""
        for job_id, line in self._queued.items():
            job = await self.lanes.db(self.store.jobs.get, job_id)
            match job.state:
                case State.DONE:
                    self.applied.done.append(line)
                case State.FAILED:
                    self.applied.refused.append((line, job.last_error or "it failed"))
                case State.SUPERSEDED:
                    self.applied.refused.append((line, "the file changed during the run"))
                case _:
                    self.applied.left.append((line, job.last_error or "syncd stopped before"))
                    self.applied.needs_operator |= job.held_class is HeldClass.LARGE
        holds = await self.lanes.db(self.store.holds.all)
        self.applied.needs_operator |= any(hold.needs_operator for hold in holds)
        return self.applied

    # -- files -----------------------------------------------------------------------------------

    async def _queue(self, line: Line) -> None:
        root, found, target = await self._still_so(line)
        if line.action is PlanAction.ADOPT:
            await self._require_adoptable(line)
        if line.action is PlanAction.RENAME and not await self._is_moved(found, target, line):
            await self._require_movable(root, line)
        job_id = await self._admit(line, found, target)
        if job_id is None:
            self.applied.done.append(line)
        else:
            self._queued[job_id] = line

    async def _still_so(self, line: Line) -> tuple[Root, FoundFile, Target]:
        """The line's file as it is now. Raises ``_Refused`` unless it still leads to the same record."""
        reason = f"{printable(line.root)} is no models directory of this configuration"
        for root in self.roots.values():
            if root.path != line.root:
                continue
            try:
                found = await self.lanes.scan(self.comparer.find, root, line.path)
            except OSError as error:
                raise _Refused(f"it cannot be examined: {error.strerror}") from None
            if found is None:
                raise _Refused("the file is gone")
            if line.fingerprint is None or not found.fingerprint.same_file_as(line.fingerprint):
                raise _Refused("the file changed since the plan was made")
            judged = await self.lanes.scan(self.comparer.judge, found)
            if not isinstance(judged, Selected):
                reason = judged.reason
            elif judged.target.model_path != line.model_path:
                reason = f"it would go to {judged.target.model_path} now"
            else:
                content = await self.lanes.scan(self.comparer.judge_content, found, lease=False)
                if content.verdict is not Verdict.WANTED:
                    raise _Refused(content.reason or "it still changes")
                return root, found, judged.target
        raise _Refused(reason)

    async def _require_adoptable(self, line: Line) -> None:
        assert line.model_path is not None, "read so"
        assert line.sha256 is not None, "read so"
        record = await self.catalog.holding(line.model_path, line.sha256)
        if record is None or record.id != line.record_id or is_disabled(record):
            raise _Refused(f"record {line.record_id} does not hold its bytes at its path any more")

    async def _is_moved(self, found: FoundFile, target: Target, line: Line) -> bool:
        """Return whether the line's record already has the file's new path."""
        standing = await self.lanes.db(
            self.store.records.standing_for, found.root_id, found.rel_path
        )
        return (
            standing is not None
            and standing.record_id == line.record_id
            and standing.model_path == target.model_path
        )

    async def _require_movable(self, root: Root, line: Line) -> None:
        assert line.was is not None, "read so"
        assert line.sha256 is not None, "read so"
        (found,) = await self.lanes.scan(self.comparer.compare_paths, root, {line.was: False})
        await self.lanes.db(self.store.files.forget, found.gone, self.clock.now_ms())
        movable = await self.lanes.db(self.store.records.movable, line.sha256)
        if movable == line.record_id:
            return
        if await self.lanes.scan(os.path.lexists, os.path.join(root.path, line.was)):
            raise _Refused(f"record {line.record_id} has its file at {printable(line.was)} again")
        raise _Refused(
            f"record {line.record_id} cannot be moved any more: it was retired or moved, or another "
            "record with the same bytes is moved first"
        )

    async def _admit(self, line: Line, found: FoundFile, target: Target) -> int | None:
        """The id of the job; None if nothing is left to do."""
        jobs, now_ms = self.store.jobs, self.clock.now_ms()
        registered = await self.lanes.db(jobs.is_registered, found, target)
        if line.action is PlanAction.UPLOAD and await self.lanes.db(jobs.is_cancelled, found):
            raise _Refused(
                "cancelled by syncd cancel; to send it again: syncd retry, with its path"
            )
        if registered and line.action is PlanAction.UPLOAD:
            if await self._is_held(found, target):
                return None
            return await self.lanes.db(jobs.send_again, found.root_id, found.rel_path, now_ms)
        unfinished = await self.lanes.db(jobs.take_up, found, target, now_ms)
        if unfinished is not None:
            return unfinished
        wanted = Wanted(found, target, naming.clash_key(target.model_path))
        admission = await self.lanes.db(self.store.files.admit, [wanted], now_ms)
        if wanted.key in admission.conflicts:
            raise _Refused("another file would get the same place in the catalog")
        return admission.jobs.get(wanted.key)

    async def _is_held(self, found: FoundFile, target: Target) -> bool:
        """Return whether the catalog still has the file's record, enabled; else it is registered again."""
        standing = await self.lanes.db(
            self.store.records.standing_for, found.root_id, found.rel_path
        )
        if standing is None or standing.drift is not None:
            return False
        record = await self.catalog.holding(target.model_path, standing.sha256)
        if record is None and not self.catalog.listed and standing.record_id.startswith("unknown:"):
            return True  # the server cannot show it
        if record is None:
            record = await self.api.get_model(standing.record_id)
        return (
            record is not None
            and (self.hidden or not is_disabled(record))
            and record.model_path == target.model_path
            and sha256_of(record) == standing.sha256
        )

    # -- records ---------------------------------------------------------------------------------

    async def _retire(self, line: Line) -> None:
        """Disable or delete our record of a missing file; an enabled one is not deleted."""
        assert line.record_id is not None, "read so"
        own = await self.lanes.db(self.store.records.own, line.record_id)
        if own is None:
            raise _Refused(
                f"record {line.record_id} is not known here: this syncd did not register it, or has "
                "deleted it already"
            )
        if not own.replaced:
            await self._require_gone(line)
        record = await self.api.get_model(line.record_id)
        if record is not None:
            if sha256_of(record) != own.sha256:
                raise _Refused(f"record {line.record_id} does not hold what it held")
            if line.action is PlanAction.DELETE and not is_disabled(record):
                raise _Refused(f"record {line.record_id} is enabled: disable it first")
        reason = await self.retirement.retire_now(
            own, "delete" if line.action is PlanAction.DELETE else "disable"
        )
        if reason is not None:
            self.applied.left.append((line, reason))
        else:
            self.applied.done.append(line)

    async def _require_gone(self, line: Line) -> None:
        """Require that the file is gone from a root that is present and readable."""
        root = next((root for root in self.roots.values() if root.path == line.root), None)
        if root is None:
            raise _Refused(f"{printable(line.root)} is no models directory of this configuration")
        row, same = await self.lanes.db(self.store.files.root, root.id), False
        try:
            mounts = await self.lanes.scan(mounts_in, root.path, row.mounts)
            same = not naming.is_within(line.path, changed_mounts(row.mounts, mounts))
            await self.lanes.scan(os.lstat, root.path)
            await self.lanes.scan(os.lstat, os.path.join(line.root, line.path))
        except FileNotFoundError as error:
            if error.filename == root.path or not same:
                raise _Refused(f"{printable(root.path)} is not the tree that it was") from None
            problem = await self.lanes.scan(find_cut_off, root, line.path)
            if problem is not None:
                where, reason = problem
                raise _Refused(f"{printable(where)}: {reason.strerror}") from None
            return
        except OSError as error:
            raise _Refused(f"its path cannot be examined: {error.strerror}") from None
        raise _Refused("its file is here")
