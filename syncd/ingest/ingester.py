"""
From a file to a job.

A hint only says "examine this path", and a scan examines all paths; ``Ingester.process`` handles both. What
is decided about a path is kept in the store, so the scan of an unchanged tree writes nothing. Files that
still change are in memory only (``SettleTracker``).
"""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple, TypeVar

import structlog

from syncd.clock import Clock
from syncd.config.rules import IGNORE_FILE
from syncd.core.files import naming
from syncd.core.files.search_paths import PathKey
from syncd.core.files.selection import Skipped
from syncd.executors import Executors
from syncd.ingest import integrity, root_guard
from syncd.ingest.comparer import SKIPPED_BATCH, Candidate, Comparer, Root, ScanResult
from syncd.ingest.root_guard import RootGuard
from syncd.ingest.settle_tracker import SettleTracker
from syncd.monitoring.progress import Meter
from syncd.store.files import Wanted
from syncd.store.store import Store
from syncd.types import FoundFile, Hint, HintKind, KnownFile, Verdict, printable

T = TypeVar("T")
R = TypeVar("R")

BATCH = 1000  # files per call of the scan thread
_WARNED_OF = frozenset((Verdict.REFUSED, Verdict.UNREADABLE, Verdict.INCOMPLETE))

_SkippedFile = tuple[FoundFile, Skipped]
_Finding = Candidate | _SkippedFile | KnownFile
"""A path that is not as known: a candidate for a job, a skipped file, or a file that is gone."""


class _Request(NamedTuple):
    kind: HintKind
    rejudge: bool


class Ingester:
    """
    Examines paths, waits until files stop changing, and queues them.

    Args:
        read_lease: Returns whether to ask the kernel if a program has a file open for writing, on
            local file systems.
        on_queued: Called when the queue may have a new job.
        on_freed: Called with a path to examine because another file appeared or went away.
    """

    def __init__(
        self,
        roots: Mapping[int, Root],
        *,
        comparer: Comparer,
        tracker: SettleTracker,
        store: Store,
        lanes: Executors,
        clock: Clock,
        meter: Meter,
        read_lease: Callable[[], bool],
        on_queued: Callable[[], None],
        on_freed: Callable[[Hint], None],
    ) -> None:
        self.tracker = tracker
        self._roots = roots
        self._guard = RootGuard(store=store, lanes=lanes)
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._meter = meter
        self._comparer = comparer
        self._read_lease = read_lease
        self._on_queued = on_queued
        self._on_freed = on_freed
        self._problems: dict[int, dict[str, str]] = {}
        self._log = structlog.get_logger("syncd.ingest.ingester")

    @property
    def problems(self) -> dict[str, str]:
        """Folders and files that the last scans could not examine, and why."""
        return {path: reason for found in self._problems.values() for path, reason in found.items()}

    @property
    def files_seen(self) -> int:
        """How many files all scans have found so far, including the current one."""
        return self._comparer.files_seen

    def stop(self) -> None:
        self._comparer.stop()

    async def require_roots(self) -> None:
        """Require all roots, and the file systems below them, without a scan. Raises ``RootUnavailable``."""
        for root in self._roots.values():
            await self._guard.require(root)

    # -- the path of a file from a hint to a job -------------------------------------------------

    async def process(self, hints: Collection[Hint]) -> None:
        """Examine what *hints* name, and queue the files that have stopped changing. Raises as ``scan``."""
        # New and changed files are tracked; skipped and missing ones are recorded.
        await self.examine(hints)
        # Files whose settle window is over are examined again; those that changed wait once more.
        settled = await self._examine_due()
        # The rules, and files that ComfyUI would load instead, may have changed since.
        selected = await self._select(settled)
        # Each file is opened: is it a whole model, and is no program writing to it?
        valid = await self._check_integrity(selected)
        # The files of a bundle are queued together or not at all.
        complete = await self._hold_back_incomplete_bundles(valid)
        # One commit writes the verdict, the job and its first event for all of them.
        await self._queue(complete)

    async def examine(self, hints: Collection[Hint]) -> None:
        """Examine what *hints* name. A hint for a whole root, or for its rules, leads to a scan."""
        whole = {hint.root_id for hint in hints if hint.rel_path in ("", IGNORE_FILE)}
        for root_id in sorted(whole):
            await self.scan(self._roots[root_id])
        requests: dict[PathKey, _Request] = {}
        for hint in hints:
            folders = hint.rel_path.split("/")[:-1]
            if hint.root_id not in whole and not any(map(naming.never_enter, folders)):
                key = hint.root_id, hint.rel_path
                before = requests.get(key)
                rejudge = hint.kind is HintKind.RESCAN or (before is not None and before.rejudge)
                requests[key] = _Request(hint.kind, rejudge)
        for batch in _batches(requests):
            await self._examine_paths({key: requests[key] for key in batch})

    async def scan(self, root: Root) -> None:
        """
        Examine every file of *root*.

        Raises:
            RootUnavailable: It is missing, unreadable, empty although it once held a model, or on another
                file system than before; or its rules cannot be read. Nothing was recorded.
            ScanStopped: ``stop`` was called.
        """
        started_s = self._clock.boottime_s()
        await self._guard.require(root)
        rules = await self._lanes.scan(self._comparer.read_rules, root)
        row = await self._guard.row_of(root)
        scan, changed = ScanResult(), 0
        batches = self._comparer.scan(root, rejudge=row.rules != rules)
        while (result := await self._lanes.scan(next, batches, None)) is not None:
            scan = result
            if root_guard.absence(root, row, scan) is None:
                changed += len(scan.skipped) + len(scan.candidates)
                await self._record_skipped(scan.skipped)
                scan.skipped.clear()
                await self._track(scan.candidates, None, backfill=not row.scanned)
                scan.candidates.clear()
        if root_guard.is_optional_and_absent(root, row, scan):
            self._log.debug("root.missing", root=root.path)
            return
        if (absence := root_guard.absence(root, row, scan)) is not None:
            raise absence
        # Again: a disk that was unmounted during the scan left an empty folder.
        mounts = await self._guard.require_mounts(root, row, scan.links)
        observed = self.tracker.non_empty_paths(root)
        await self._guard.require_models(root, row, scan, observed)
        self._problems[root.id] = {
            root.display_path(path): error.strerror or str(error) for path, error in scan.problems
        }
        await self._record([(scan, None)])
        await self._lanes.db(
            self._store.files.mark_scanned,
            root.id,
            mounts,
            self._clock.now_ms(),
            models=scan.has_model,
            rules=rules,
        )
        seconds = self._clock.boottime_s() - started_s
        self._meter.scanned(printable(root.path), seconds)
        self._log.info(
            "scan.finished",
            root=root.path,
            files=scan.files,
            changed=changed,
            gone=len(scan.gone),
            seconds=round(seconds, 3),
        )

    # -- examining paths -------------------------------------------------------------------------

    async def _examine_paths(self, requests: Mapping[PathKey, _Request]) -> None:
        """Examine tracked files once more, and compare the other paths with what is known."""
        tracked: dict[PathKey, HintKind | None] = {}
        others: defaultdict[int, dict[str, bool]] = defaultdict(dict)
        for (root_id, rel_path), request in requests.items():
            folder, name = os.path.split(rel_path)
            owner = root_id, os.path.join(folder, naming.owner_of(name) or name)
            if owner in self.tracker:  # of a downloader's companion file
                tracked[owner] = request.kind
            if (root_id, rel_path) in self.tracker:
                tracked[root_id, rel_path] = request.kind
            else:
                others[root_id][rel_path] = request.rejudge
        if tracked:
            await self._examine_tracked(tracked)
        for root_id, paths in others.items():
            root = self._roots[root_id]
            results = await self._lanes.scan(self._comparer.compare_paths, root, paths)
            if any(result.gone for result in results):
                await self._guard.require_mounts(root, await self._guard.row_of(root))
            kinds = [requests[root_id, rel_path].kind for rel_path in paths]
            await self._record(zip(results, kinds, strict=True))

    async def _examine_due(self) -> list[FoundFile]:
        settled: list[FoundFile] = []
        for batch in _batches(sorted(self.tracker.due())):
            settled += await self._examine_tracked(dict.fromkeys(batch))
        return settled

    async def _examine_tracked(self, hints: Mapping[PathKey, HintKind | None]) -> list[FoundFile]:
        began_s = self._clock.boottime_s()
        states = await self._lanes.scan(self._comparer.examine, list(hints))
        ended_s = self._clock.boottime_s()
        settled = []
        for (key, hint), state in zip(hints.items(), states, strict=True):
            if isinstance(state, OSError):
                self.tracker.block(key, f"it cannot be examined: {state.strerror}")
            elif state is None:
                self.tracker.forget(key)
                self._log.debug("file.vanished", path=printable(key[1]))
            elif self.tracker.examined(*state, hint, began_s=began_s, ended_s=ended_s):
                settled.append(state[0])
        return settled

    # -- recording what was found ----------------------------------------------------------------

    async def _record(self, results: Iterable[tuple[ScanResult, HintKind | None]]) -> None:
        """Track candidates, and record skipped and missing files; the last result of a path counts."""
        findings: dict[PathKey, tuple[_Finding, HintKind | None]] = {}
        reconsider: list[PathKey] = []
        for result, hint in results:
            for rel_path, error in result.problems:
                self._log.warning("scan.problem", path=rel_path, reason=error.strerror)
            findings |= {_key(item.found): (item, hint) for item in result.candidates}
            findings |= {_key(item[0]): (item, hint) for item in result.skipped}
            findings |= {_key(known): (known, hint) for known in result.gone}
            reconsider += result.reconsider
        for finding, hint in findings.values():
            if isinstance(finding, Candidate):
                await self._track([finding], hint)
        if reconsider:  # committed first: a hint alone would be lost with the process
            await self._lanes.db(self._store.files.judge_afresh, reconsider)
            self._request_examination(reconsider)
        items = [item for item, _ in findings.values()]
        await self._record_skipped([item for item in items if isinstance(item, tuple)])
        await self._record_gone([item for item in items if isinstance(item, KnownFile)])

    async def _track(
        self, candidates: Collection[Candidate], hint: HintKind | None, *, backfill: bool = False
    ) -> None:
        now_s = self._clock.boottime_s()  # one time for all: found together, they settle together
        for candidate in candidates:
            known = candidate.known
            if (
                known is not None
                and known.verdict is Verdict.WANTED
                and candidate.only_ctime_changed
                and await self._lanes.db(
                    self._store.files.refresh, candidate.found, self._clock.now_ms()
                )
            ):
                continue  # under a live job: its worker reads the file again
            self.tracker.observe(candidate, hint, now_s, backfill=backfill)

    async def _record_skipped(self, skipped: list[_SkippedFile]) -> None:
        for found, _ in skipped:
            self.tracker.forget(_key(found))
        for start in range(0, len(skipped), SKIPPED_BATCH):
            batch = [
                (found, decision.verdict, decision.reason, decision.model_path)
                for found, decision in skipped[start : start + SKIPPED_BATCH]
            ]
            freed = await self._lanes.db(self._store.files.judge, batch, self._clock.now_ms())
            self._request_examination(freed)
        for found, decision in skipped:
            if decision.verdict in _WARNED_OF:
                self._log.warning(
                    f"file.{decision.verdict}", path=found.rel_path, reason=decision.reason
                )

    async def _record_gone(self, gone: list[KnownFile]) -> None:
        if not gone:
            return
        for known in gone:
            self.tracker.forget(_key(known))
            self._log.info("file.gone", path=known.rel_path)
        freed = await self._lanes.db(self._store.files.forget, gone, self._clock.now_ms())
        self._request_examination(freed)

    def _request_examination(self, keys: Iterable[PathKey]) -> None:
        for root_id, rel_path in keys:
            self._on_freed(Hint(root_id, rel_path, HintKind.RESCAN))

    # -- from a settled file to a job ------------------------------------------------------------

    async def _select(self, settled: Collection[FoundFile]) -> list[Wanted]:
        """Apply the rules again. A file waits while a tracked file has the same place in the catalog."""
        selected: list[Wanted] = []
        skipped: list[_SkippedFile] = []
        keys = [_key(found) for found in settled]
        unsettled_clash_keys = self.tracker.clash_keys_except(keys) if settled else set[str]()
        decisions = await self._in_batches(self._comparer.judge_growing, settled)
        for found, decision in zip(settled, decisions, strict=True):
            file = self.tracker[_key(found)]
            if isinstance(decision, Skipped):
                skipped.append((found, decision))
            elif file.clash_key in unsettled_clash_keys:
                file.postponed = True
            else:
                selected.append(Wanted(found, decision.target, file.clash_key, file.priority))
        await self._record_skipped(skipped)
        return selected

    async def _check_integrity(self, selected: list[Wanted]) -> list[Wanted]:
        """Return the whole models; record the others, or let them wait."""
        valid: list[Wanted] = []
        skipped: list[_SkippedFile] = []
        waiting_clash_keys: set[str] = set()

        def judge(found: FoundFile) -> integrity.Judgement:
            lease = self._read_lease() and not self._roots[found.root_id].network
            return self._comparer.judge_content(found, lease=lease)

        judgements = await self._in_batches(judge, [item.found for item in selected])
        for item, judgement in zip(selected, judgements, strict=True):
            reason = judgement.reason or "it still changes"
            if judgement.verdict is Verdict.WANTED:
                valid.append(item)
            elif judgement.verdict is None:
                self.tracker.block(item.key, reason)
                waiting_clash_keys.add(item.clash_key)
            else:
                decision = Skipped(judgement.verdict, reason, item.target.model_path)
                skipped.append((item.found, decision))
        await self._record_skipped(skipped)
        for item in valid:
            self.tracker[item.key].postponed = item.clash_key in waiting_clash_keys
        return [item for item in valid if item.clash_key not in waiting_clash_keys]

    async def _hold_back_incomplete_bundles(self, valid: list[Wanted]) -> list[Wanted]:
        """Return the files without a bundle, or whose bundle is complete; the others wait."""
        members: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
        for item in valid:
            if item.target.bundle is not None:
                members[item.found.root_id, item.target.bundle].add(item.found.rel_path)
        missing = {
            (root_id, bundle): await self._lanes.scan(
                self._comparer.missing_from_bundle, self._roots[root_id], bundle, ready
            )
            for (root_id, bundle), ready in members.items()
        }
        complete = []
        for item in valid:
            bundle = item.target.bundle
            lacks = None if bundle is None else missing[item.found.root_id, bundle]
            if lacks is None:
                complete.append(item)
            else:
                waits = f"the bundle {printable(bundle or '')} waits for {lacks}"
                self.tracker[item.key].missing_from_bundle = waits
        return complete

    async def _queue(self, wanted: list[Wanted]) -> None:
        if not wanted:
            return
        for item in wanted:
            self.tracker.forget(item.key)
        admission = await self._lanes.db(self._store.files.admit, wanted, self._clock.now_ms())
        for item in wanted:
            path, size = item.found.rel_path, item.found.fingerprint.size
            if item.key in admission.conflicts:
                self._log.warning("file.conflict", path=path, model_path=item.target.model_path)
            elif (job_id := admission.jobs.get(item.key)) is not None:
                self._meter.expect(job_id, size)
                self._log.info("file.queued", path=path, size=size, job_id=job_id)
        self._request_examination(admission.freed)
        self._on_queued()

    async def _in_batches(self, function: Callable[[T], R], items: Collection[T]) -> list[R]:
        results: list[R] = []
        for batch in _batches(items):
            results += await self._lanes.scan(self._comparer.map, function, batch)
        return results


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _key(file: FoundFile | KnownFile) -> PathKey:
    return file.root_id, file.rel_path
