"""
From the disk to the queue: hints and walks come in, files that stand still go out as jobs.

An event only says "look around here", and a walk looks everywhere; both go through the same door.
What the door decides about a path is kept in the store, so an unchanged tree costs a walk and
nothing more. Files that still move are held in memory only: after a restart the walk meets them
again.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import structlog

from syncd.clock import Clock
from syncd.config.rules import IGNORE_FILE
from syncd.core.files import naming
from syncd.core.files import settling as settle
from syncd.core.files.search_paths import PathKey
from syncd.core.files.selection import Selected, Skipped
from syncd.errors import RootUnavailable
from syncd.executors import Executors
from syncd.fs.mounts import mounts_in
from syncd.ingest import integrity
from syncd.ingest.comparer import (
    PASSED_MAX,
    Comparer,
    Fresh,
    Root,
    Walked,
    changed_mounts,
    emptied,
    require_same_mounts,
)
from syncd.monitoring.progress import Meter, Settling
from syncd.store.files import Admission, RootRow, Wanted
from syncd.store.store import Store
from syncd.types import FoundFile, Hint, HintKind, KnownFile, Mount, Priority, Verdict, printable

T = TypeVar("T")
R = TypeVar("R")

BATCH = 1000
"""Files looked at in one go: going to the scan thread and back costs more than one look."""

SETTLED_MAX = 10_000
"""Files that are judged and queued in one go, so that a backfill of any size takes bounded memory."""

BLOCKED_LOOK_S = 10.0
"""Between looks at a file that something but time holds up: an event may tell sooner."""

RIVAL_LOOK_S = 1.0
"""Between looks at a file that waits for one that would get the same place in the catalog."""

CLOCK_SLACK_S = 1.0
"""Two clocks of one machine may drift apart by so much before one of them counts as set."""

_TOLD = frozenset((Verdict.REFUSED, Verdict.UNREADABLE, Verdict.INCOMPLETE))
"""What is logged of files that get no job."""

_Finding = Fresh | tuple[FoundFile, Skipped] | KnownFile
"""What a look says of a path: it is not as known and taken, or passed over, or it is gone."""


@dataclass(slots=True)
class _Moving:
    """
    A file that does not stand still yet.

    ``place`` is the clash key of where it goes; *postponed*, it waits for another one that would
    get the same place. ``bundle``: it goes with the others of its folder, which may *lack* some.
    """

    watching: settle.Watching
    looked_at_s: float
    priority: Priority
    place: str
    bundle: str | None = None
    postponed: bool = False
    lacks: str | None = None

    @property
    def reason(self) -> str | None:
        """What other than time keeps it from being queued."""
        if self.postponed:
            return "it waits for a file that would get the same place in the catalog"
        return self.lacks or self.watching.blocked_by


class Ingester:
    """
    Looks, waits until files stand still, and queues them.

    Args:
        windows: Seconds a fingerprint must stand still.
        comparer: Looks at the roots, in the scan thread.
        read_lease: Ask the kernel who writes, on local file systems.
        once: What has stood still for long need not be watched for its whole window.
        on_queued: Called when there is something new in the queue.
        on_freed: Called with where to look again because another file came or went.
    """

    def __init__(
        self,
        roots: Mapping[int, Root],
        *,
        comparer: Comparer,
        store: Store,
        lanes: Executors,
        clock: Clock,
        meter: Meter,
        windows: settle.Windows,
        read_lease: bool,
        once: bool,
        on_queued: Callable[[], None],
        on_freed: Callable[[Hint], None],
    ) -> None:
        self._roots = roots
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._meter = meter
        self._windows = windows
        self._comparer = comparer
        self._read_lease = read_lease
        self._once = once
        self._ahead_s = self._clock_ahead_s()
        self._on_queued = on_queued
        self._on_freed = on_freed
        self._moving: dict[PathKey, _Moving] = {}
        self._problems: dict[int, dict[str, str]] = {}
        self._log = structlog.get_logger("syncd.ingest.ingester")

    # -- what the service asks -------------------------------------------------------------------

    def unsettled(self) -> dict[PathKey, settle.Watching]:
        """Paths that do not stand still yet, or are not finished, and why."""
        return {
            key: replace(moving.watching, blocked_by=moving.reason)
            for key, moving in self._moving.items()
        }

    def settling(self) -> Iterator[Settling]:
        """The same for people, in the order in which they were met; read it without an await."""
        now_s = self._clock.boottime_s()
        for (root_id, rel_path), moving in self._moving.items():
            left_s = max(settle.settles_at_s(moving.watching) - now_s, 0.0)
            yield Settling(
                path=printable(self._roots[root_id].shown(rel_path)),
                size=moving.watching.fingerprint.size,
                seconds_left=round(left_s, 1) if moving.reason is None else None,
                reason=moving.reason,
            )

    @property
    def problems(self) -> dict[str, str]:
        """What the last walks could not look at (folders and files), and why."""
        return {path: reason for found in self._problems.values() for path, reason in found.items()}

    @property
    def seen(self) -> int:
        """Files that walks have met so far, one that is under way included."""
        return self._comparer.seen

    def next_look_s(self) -> float | None:
        """Boottime of the next look that is due; None while nothing moves."""
        return min((self._look_at_s(key) for key in self._moving), default=None)

    def retune(self, windows: settle.Windows, *, read_lease: bool) -> None:
        """These count for every file that is observed from now on."""
        self._windows, self._read_lease = windows, read_lease

    def stop(self) -> None:
        """Break off a walk that is under way; nothing that it saw is judged."""
        self._comparer.stop()

    def start_over(self) -> None:
        """Forget what was observed, where no window can be trusted any more. A walk must follow."""
        for key in list(self._moving):
            self._forget(key)

    async def walk(self, root: Root) -> None:
        """
        Look at every file of *root*.

        Raises:
            RootUnavailable: The root is missing, unreadable, empty although it once held a model,
                or on another file system than before; or its rules cannot be read. Nothing was
                judged.
        """
        started_s = self._clock.boottime_s()
        await self._require_root(root)
        rules = await self._lanes.scan(self._comparer.read_rules, root)
        row = await self._row_of(root)
        walked, changed = Walked(), 0
        walk = self._comparer.walk(root, afresh=row.rules != rules)
        while (found := await self._lanes.scan(next, walk, None)) is not None:
            walked = found
            if _is_present(root, row, walked):
                changed += len(walked.passed) + len(walked.fresh)
                await self._pass_over(walked.passed)
                walked.passed.clear()
                await self._observe_all(walked.fresh, None, backfill=not row.scanned)
                walked.fresh.clear()
        if _is_absent(root, row, walked):
            self._log.debug("root.missing", root=root.path)
            return
        _require_present(root, row, walked)
        # Once more: a disk that was unmounted during the walk left an empty folder.
        mounts = await self._require_mounted(root, row, walked.links)
        await self._require_not_emptied(root, row, walked)
        self._problems[root.id] = {
            root.shown(path): error.strerror or str(error) for path, error in walked.problems
        }
        await self._take_in([(walked, None)])
        await self._lanes.db(
            self._store.files.mark_scanned,
            root.id,
            mounts,
            self._clock.now_ms(),
            models=walked.models,
            rules=rules,
        )
        self._meter.walked(printable(root.path), self._clock.boottime_s() - started_s)
        self._log.info(
            "scan.finished",
            root=root.path,
            files=walked.files,
            changed=changed,
            gone=len(walked.gone),
            seconds=round(self._clock.boottime_s() - started_s, 3),
        )

    async def look(self, hints: Collection[Hint]) -> None:
        """
        Look where something happened; a root that is hit as a whole, or in its rules, is walked.

        Raises:
            RootUnavailable: As ``walk``.
        """
        whole = {hint.root_id for hint in hints if hint.rel_path in ("", IGNORE_FILE)}
        for root_id in sorted(whole):
            await self.walk(self._roots[root_id])
        asked: dict[PathKey, tuple[HintKind, bool]] = {}
        for hint in hints:
            entered = not any(map(naming.never_enter, hint.rel_path.split("/")[:-1]))
            if entered and hint.root_id not in whole:  # what no walk enters, no hint leads to
                key, rescan = (hint.root_id, hint.rel_path), hint.kind is HintKind.RESCAN
                asked[key] = (hint.kind, rescan or (key in asked and asked[key][1]))
        for batch in _batches(asked):
            await self._look_at({key: asked[key] for key in batch})

    async def settle_due(self) -> None:
        """Look again at the files whose window has passed; queue those that did not move."""
        due = self._due()
        if due:
            due |= {
                key for key, m in self._moving.items() if m.postponed
            }  # whoever waits for a rival is judged in one go with it
            whole = {self._bundle_of(key) for key in due} - {None}
            due |= {key for key in self._moving if self._bundle_of(key) in whole}
        settled: list[FoundFile] = []
        for batch in _batches(sorted(due)):
            settled += await self._look_again(dict.fromkeys(batch))
        await self._admit(settled)

    def _due(self) -> set[PathKey]:
        """
        Files whose window has passed, at most about ``SETTLED_MAX`` of them; the others stay due.

        Files that would get the same place in the catalog are taken together.
        """
        now_s = self._clock.boottime_s()
        due = [key for key in self._moving if self._look_at_s(key) <= now_s]
        if len(due) > SETTLED_MAX:
            due.sort(key=lambda key: self._moving[key].place)
            last = self._moving[due[SETTLED_MAX - 1]].place
            due = [key for key in due if self._moving[key].place <= last]
        return set(due)

    # -- looking ---------------------------------------------------------------------------------

    async def _each(self, function: Callable[[T], R], items: Collection[T]) -> list[R]:
        """*function* of each of *items*, in the scan thread."""
        results: list[R] = []
        for batch in _batches(items):
            results += await self._lanes.scan(self._comparer.each, function, batch)
        return results

    async def _look_at(self, asked: Mapping[PathKey, tuple[HintKind, bool]]) -> None:
        """Look at paths, each with the last that was said of it, and whether it is judged afresh."""
        again: dict[PathKey, HintKind | None] = {}
        others: defaultdict[int, dict[str, bool]] = defaultdict(dict)
        for (root_id, rel_path), (kind, afresh) in asked.items():
            owner = _owner(rel_path)
            if owner is not None and (root_id, owner) in self._moving:
                again[root_id, owner] = kind
            if (root_id, rel_path) in self._moving:
                again[root_id, rel_path] = kind
            else:
                others[root_id][rel_path] = afresh
        if again:
            await self._look_again(again)
        for root_id, there in others.items():
            root = self._roots[root_id]
            looks = await self._lanes.scan(self._comparer.at, root, there)
            if any(walked.gone for walked in looks):
                await self._require_mounted(root, await self._row_of(root))
            kinds = [asked[root_id, rel_path][0] for rel_path in there]
            await self._take_in(zip(looks, kinds, strict=True))

    async def require_roots(self) -> None:
        """
        Require all roots, and the file systems below them, to be there, without a walk.

        Raises:
            RootUnavailable: As ``walk``, as far as the mounts show it.
        """
        for root in self._roots.values():
            await self._require_root(root)

    async def _require_root(self, root: Root) -> None:
        row = await self._row_of(root)
        if root.type_key is None or row.held_model:  # ComfyUI puts up with the others
            await self._require_mounted(root, row)

    async def _row_of(self, root: Root) -> RootRow:
        return await self._lanes.db(self._store.files.root, root.id)

    async def _require_mounted(
        self, root: Root, row: RootRow, links: Iterable[str] = ()
    ) -> Mapping[str, Mount]:
        """Require the file systems of *root*, without which files only seem gone; its mounts."""
        mounts = await self._lanes.scan(_mounts_of, root.path, {*row.mounts, *links})
        if mounts is None:
            raise RootUnavailable(_missing(root))
        changed = changed_mounts(row.mounts, mounts)
        models = await self._lanes.db(self._store.files.models_below, root.id, changed)
        held = {**models, "": row.held_model}
        require_same_mounts(root, row.mounts, mounts, held.get)
        return mounts

    async def _require_not_emptied(self, root: Root, row: RootRow, walked: Walked) -> None:
        """Require that no disk below the root lost all its models at once."""
        if walked.gone:
            folders = [folder for folder in row.mounts if folder]
            models = await self._lanes.db(self._store.files.models_below, root.id, folders)
            observed = [
                rel_path
                for (root_id, rel_path), moving in self._moving.items()
                if root_id == root.id and moving.watching.fingerprint.size > 0
            ]
            for folder in walked.emptied(models, observed):
                raise emptied(root, folder)

    def _look_at_s(self, key: PathKey) -> float:
        """When to look again: at the end of the window; now and then where something is in the way."""
        moving = self._moving[key]
        if moving.postponed:
            return moving.looked_at_s + RIVAL_LOOK_S
        if moving.watching.blocked_by is None and moving.lacks is None:
            return settle.settles_at_s(moving.watching)
        return moving.looked_at_s + BLOCKED_LOOK_S

    async def _look_again(self, asked: Mapping[PathKey, HintKind | None]) -> list[FoundFile]:
        """One more look at paths under observation; the files that have stood still long enough."""
        began_s = self._clock.boottime_s()
        looks = await self._lanes.scan(self._comparer.look, list(asked))
        ended_s = self._clock.boottime_s()
        settled = []
        for (key, hint), look in zip(asked.items(), looks, strict=True):
            if isinstance(look, OSError):
                self._block(key, f"it cannot be looked at: {look.strerror}")
            elif look is None:
                self._forget(key)
                self._log.debug("file.vanished", path=printable(key[1]))
            else:
                moving = self._moving[key]
                moving.watching = self._watching(moving.watching, *look, hint, ended_s)
                moving.looked_at_s = ended_s
                # It was looked at between the two: a window begins with the end of a look, and is
                # over if the next one began behind it.
                if settle.is_settled(moving.watching, began_s):
                    settled.append(look[0])
                else:
                    moving.lacks = None
        return settled

    def _observe(
        self, fresh: Fresh, taken: Selected, hint: HintKind | None, now_s: float, *, backfill: bool
    ) -> None:
        """Begin to watch a file, or go on with what is known of it now."""
        key = (fresh.found.root_id, fresh.found.rel_path)
        before = self._moving.get(key)
        watching = self._watching(
            before.watching if before else None, fresh.found, fresh.companion, hint, now_s
        )
        # What lay there at the first walk, or is wanted by new rules only, can wait.
        priority = Priority.BACKFILL if backfill or fresh.is_unchanged else Priority.FRESH
        place = naming.clash_key(taken.target.model_path)
        self._moving[key] = _Moving(watching, now_s, priority, place, taken.target.bundle)
        self._meter.settling(len(self._moving))

    def _watching(
        self,
        before: settle.Watching | None,
        found: FoundFile,
        companion: str | None,
        hint: HintKind | None,
        now_s: float,
    ) -> settle.Watching:
        old = self._is_old(found)
        watching = settle.look(
            before if old or not self._once else self._unhurried(before),
            found,
            now_s=now_s,
            hint=hint,
            windows=self._windows,
            network=self._roots[found.root_id].network,
            companion=companion,
            old=old,
        )
        assert watching is not None, "there is a file to watch"
        return watching

    def _block(self, key: PathKey, reason: str) -> None:
        """Something is in the way that no event may tell of: look again after a while."""
        moving = self._moving[key]
        moving.watching = replace(moving.watching, blocked_by=reason)
        moving.looked_at_s = self._clock.boottime_s()

    # -- how old it is, for a backfill -----------------------------------------------------------

    def _clock_ahead_s(self) -> float:
        """How far the clock that files are stamped by is ahead of the one that never jumps."""
        return self._clock.now_ms() / 1000 - self._clock.boottime_s()

    def _is_old(self, found: FoundFile) -> bool:
        """In a backfill: is its ctime long past, by a clock that nobody has set meanwhile?"""
        if not self._once or abs(self._clock_ahead_s() - self._ahead_s) > CLOCK_SLACK_S:
            return False
        age_s = self._clock.now_ms() / 1000 - found.fingerprint.ctime_ns / 1e9
        return age_s > settle.OLD_S

    def _unhurried(self, before: settle.Watching | None) -> settle.Watching | None:
        """What was observed, unless its window was short for an age that is in doubt now."""
        shortest_s = min(self._windows.quiet_s, self._windows.closed_s)
        return None if before is not None and before.window_s < shortest_s else before

    # -- letting it in ---------------------------------------------------------------------------

    def _forget(self, key: PathKey) -> None:
        if self._moving.pop(key, None) is not None:
            self._meter.settling(len(self._moving))

    async def _admit(self, settled: Collection[FoundFile]) -> None:
        """Queue files, all in one commit: of two that clash none is claimed before both are seen."""
        candidates: list[Wanted] = []
        passed: list[tuple[FoundFile, Skipped]] = []
        moving = self._moving.keys() - {(found.root_id, found.rel_path) for found in settled}
        rivals = {self._moving[key].place for key in moving} if settled else set()
        judgements = await self._each(self._comparer.judge_growing, settled)
        for found, judged in zip(settled, judgements, strict=True):
            watched = self._moving[found.root_id, found.rel_path]
            if isinstance(judged, Skipped):  # ComfyUI loads another file by now, or this one grew
                passed.append((found, judged))
            elif watched.place in rivals:  # it would be claimed before the other is seen
                watched.postponed = True
            else:
                candidates.append(Wanted(found, judged.target, watched.place, watched.priority))
        await self._pass_over(passed)
        if wanted := await self._whole(await self._sound(candidates)):
            await self._queue(wanted)

    async def _sound(self, candidates: list[Wanted]) -> list[Wanted]:
        """Those that are whole models; the others are remembered, or wait."""
        sound: list[Wanted] = []
        passed: list[tuple[FoundFile, Skipped]] = []
        busy: set[str] = set()
        judgements = await self._each(self._soundness, [item.found for item in candidates])
        for item, judgement in zip(candidates, judgements, strict=True):
            reason = judgement.reason or "it still changes"
            if judgement.verdict is Verdict.WANTED:
                sound.append(item)
            elif judgement.verdict is None:
                self._block(item.key, reason)
                busy.add(item.clash_key)
            else:
                unsound = Skipped(judgement.verdict, reason, item.target.model_path)
                passed.append((item.found, unsound))
        await self._pass_over(passed)
        for item in sound:
            self._moving[item.key].postponed = item.clash_key in busy
        return [item for item in sound if item.clash_key not in busy]

    def _soundness(self, found: FoundFile) -> integrity.Judgement:
        root = self._roots[found.root_id]
        return self._comparer.judge_content(found, lease=self._read_lease and not root.network)

    async def _whole(self, sound: list[Wanted]) -> list[Wanted]:
        """Those that are no part of a bundle, or whose bundle can go as a whole; the others wait."""
        lacks: dict[tuple[int, str], str | None] = {}
        for root_id, bundle in {(item.found.root_id, item.target.bundle) for item in sound}:
            if bundle is not None:
                settled = {
                    item.found.rel_path
                    for item in sound
                    if (item.found.root_id, item.target.bundle) == (root_id, bundle)
                }
                lacks[root_id, bundle] = await self._lanes.scan(
                    self._comparer.bundle_waits_for, self._roots[root_id], bundle, settled
                )
        whole = []
        for item in sound:
            bundle = item.target.bundle
            reason = None if bundle is None else lacks[item.found.root_id, bundle]
            if reason is None:
                whole.append(item)
            else:
                reason = f"the bundle {printable(bundle or '')} waits for {reason}"
                self._moving[item.key].lacks = reason
        return whole

    def _bundle_of(self, key: PathKey) -> tuple[int, str] | None:
        bundle = self._moving[key].bundle
        return None if bundle is None else (key[0], bundle)

    async def _queue(self, wanted: list[Wanted]) -> None:
        for item in wanted:
            self._forget(item.key)
        admission = await self._lanes.db(self._store.files.admit, wanted, self._clock.now_ms())
        for item in wanted:
            self._tell(item, admission)
        self._look_again_at(admission.freed)
        self._on_queued()

    def _tell(self, wanted: Wanted, admission: Admission) -> None:
        path, size = wanted.found.rel_path, wanted.found.fingerprint.size
        if wanted.key in admission.conflicts:
            self._log.warning("file.conflict", path=path, model_path=wanted.target.model_path)
        elif (job_id := admission.jobs.get(wanted.key)) is not None:
            self._meter.expect(job_id, size)
            self._log.info("file.queued", path=path, size=size, job_id=job_id)

    def _look_again_at(self, keys: Iterable[PathKey]) -> None:
        for root_id, rel_path in keys:
            self._on_freed(Hint(root_id, rel_path, HintKind.RESCAN))

    # -- deciding --------------------------------------------------------------------------------

    async def _observe_all(
        self, found: Collection[Fresh], hint: HintKind | None, *, backfill: bool = False
    ) -> None:
        now_s = self._clock.boottime_s()  # one for all: what was met together settles together
        for fresh in found:
            if not await self._runs_on(fresh):
                self._observe(fresh, fresh.judged, hint, now_s, backfill=backfill)

    async def _take_in(self, looks: Iterable[tuple[Walked, HintKind | None]]) -> None:
        """What was found, and what had been said of it."""
        found: dict[PathKey, tuple[_Finding, HintKind | None]] = {}
        doubtful: list[PathKey] = []
        for walked, hint in looks:  # of a path that was looked at twice the later look counts
            for rel_path, error in walked.problems:
                self._log.warning("scan.problem", path=rel_path, reason=error.strerror)
            found |= {_key(fresh.found): (fresh, hint) for fresh in walked.fresh}
            found |= {_key(passed[0]): (passed, hint) for passed in walked.passed}
            found |= {_key(known): (known, hint) for known in walked.gone}
            doubtful += walked.doubtful
        for finding, hint in found.values():
            if isinstance(finding, Fresh):
                await self._observe_all([finding], hint)
        if doubtful:  # forgotten first: a hint alone would be lost with the process
            await self._lanes.db(self._store.files.judge_afresh, doubtful)
            self._look_again_at(doubtful)
        await self._pass_over([each for each, _ in found.values() if isinstance(each, tuple)])
        await self._let_go([each for each, _ in found.values() if isinstance(each, KnownFile)])

    async def _pass_over(self, passed: list[tuple[FoundFile, Skipped]]) -> None:
        """Remember files that get no job."""
        for found, _ in passed:
            self._forget((found.root_id, found.rel_path))
        for start in range(0, len(passed), PASSED_MAX):
            batch = [
                (found, judged.verdict, judged.reason, judged.model_path)
                for found, judged in passed[start : start + PASSED_MAX]
            ]
            freed = await self._lanes.db(self._store.files.judge, batch, self._clock.now_ms())
            self._look_again_at(freed)
        for found, judged in passed:
            if judged.verdict in _TOLD:
                self._log.warning(
                    f"file.{judged.verdict}", path=found.rel_path, reason=judged.reason
                )

    async def _let_go(self, gone: list[KnownFile]) -> None:
        """Forget files that are no longer there."""
        if not gone:
            return
        for known in gone:
            self._forget((known.root_id, known.rel_path))
            self._log.info("file.gone", path=known.rel_path)
        freed = await self._lanes.db(self._store.files.forget, gone, self._clock.now_ms())
        self._look_again_at(freed)

    async def _runs_on(self, fresh: Fresh) -> bool:
        """Only ctime moved under a live job: its worker reads again, nothing is voided."""
        if not fresh.only_ctime_moved or _verdict(fresh) is not Verdict.WANTED:
            return False
        return await self._lanes.db(self._store.files.refresh, fresh.found, self._clock.now_ms())


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    """All of *items*, so many at a time that the scan thread is free for others in between."""
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _key(file: FoundFile | KnownFile) -> PathKey:
    return file.root_id, file.rel_path


def _verdict(fresh: Fresh) -> Verdict | None:
    return None if fresh.known is None else fresh.known.verdict


def _is_absent(root: Root, row: RootRow, walked: Walked) -> bool:
    """Is this a directory of extra_model_paths that is not there, as ComfyUI puts up with?"""
    missing = any(
        rel_path == "" and isinstance(error, FileNotFoundError)
        for rel_path, error in walked.problems
    )
    return missing and root.type_key is not None and not row.held_model


def _is_present(root: Root, row: RootRow, walked: Walked) -> bool:
    """Would what was found so far do, if no more came?"""
    try:
        _require_present(root, row, walked)
    except RootUnavailable:
        return False
    return True


def _require_present(root: Root, row: RootRow, walked: Walked) -> None:
    """Nothing is concluded from an absent tree."""
    if any(rel_path == "" for rel_path, _ in walked.problems):
        raise RootUnavailable(_missing(root))
    if row.held_model and not walked.models:
        raise emptied(root)


def _missing(root: Root) -> str:
    return (
        f"The models directory {printable(root.path)} is missing or cannot be read. Nothing was "
        "judged. Check models_dir (or extra_model_paths), the mount, and the permissions of the "
        "account that runs syncd."
    )


def _mounts_of(path: str, folders: Collection[str]) -> dict[str, Mount] | None:
    """The mounts of a root; None if it is not there."""
    try:
        return mounts_in(path, folders) if os.path.isdir(path) else None
    except OSError:
        return None


def _owner(rel_path: str) -> str | None:
    folder, name = os.path.split(rel_path)
    owner = naming.owner_of(name)
    return None if owner is None else os.path.join(folder, owner)
