"""
From the disk to the queue: hints and walks come in, files that stand still go out as jobs.

An event only says "look around here", and a walk looks everywhere; both go through the same door.
What the door decides about a path is kept in the store, so an unchanged tree costs a walk and
nothing more. Files that still move are held in memory only: after a restart the walk meets them
again.
"""

import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from syncd import scan, soundness
from syncd.clock import Clock
from syncd.core import paths, settle
from syncd.core.diff import Change, Gone, Moved, diff
from syncd.errors import RootUnavailable
from syncd.lanes import Lanes
from syncd.model import FoundFile, Hint, HintKind, KnownFile, Mount, Target, Verdict, printable
from syncd.progress import Meter
from syncd.store import PathKey, Store, open_files

BLOCKED_LOOK_S = 10.0
"""Between looks at a file that something but time holds up: an event may tell sooner."""

RIVAL_LOOK_S = 1.0
"""Between looks at a file that waits for one that would get the same place in the catalog."""

CLOCK_SLACK_S = 1.0
"""Two clocks of one machine may drift apart by so much before one of them counts as set."""

BATCH = 20_000
"""Verdicts committed at a time."""


@dataclass(frozen=True, slots=True)
class Root:
    """A watched directory as the operator spelled it, its id in the store, and where it lies."""

    id: int
    path: str
    network: bool


class _BrokenOff(Exception):
    """The walk was told to stop."""


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A file that is not as known, and the name beside it that a downloader keeps, if any."""

    found: FoundFile
    known: KnownFile | None
    companion: str | None


@dataclass(slots=True)
class _Walked:
    """What a walk found: changes, and whether any model stands there at all."""

    fresh: list[_Fresh] = field(default_factory=list)
    gone: list[KnownFile] = field(default_factory=list)
    problems: list[tuple[str, OSError]] = field(default_factory=list)
    files: int = 0
    models: bool = False


class Intake:
    """
    Looks, waits until files stand still, and queues them.

    Args:
        windows: Seconds a fingerprint must stand still.
        prefix: What model_path begins with.
        read_lease: Ask the kernel who writes, on local file systems.
        backfill: What has stood still for long need not be watched for its whole window.
        on_queued: Called when there is something new in the queue.
        on_freed: Called with where to look again because a conflict ended.
    """

    def __init__(
        self,
        roots: Mapping[int, Root],
        *,
        store: Store,
        state_dir: str,
        lanes: Lanes,
        clock: Clock,
        meter: Meter,
        windows: settle.Windows,
        symlinks: scan.Symlinks,
        prefix: str,
        read_lease: bool,
        backfill: bool,
        on_queued: Callable[[], None],
        on_freed: Callable[[Hint], None],
    ) -> None:
        self._roots = roots
        self._store = store
        self._state_dir = state_dir
        self._lanes = lanes
        self._clock = clock
        self._meter = meter
        self._windows = windows
        self._symlinks = symlinks
        self._prefix = prefix
        self._read_lease = read_lease
        self._backfill = backfill
        self._ahead_s = self._clock_ahead_s()
        self._on_queued = on_queued
        self._on_freed = on_freed
        self._moving: dict[PathKey, settle.Watching] = {}
        self._looked_at_s: dict[PathKey, float] = {}
        self._postponed: set[PathKey] = set()
        self._stopped = threading.Event()
        self.problems: dict[str, str] = {}
        """What the last walk could not look at (folders and files), and why."""
        self._log = structlog.get_logger("syncd.intake")

    # -- what the service asks -------------------------------------------------------------------

    def unsettled(self) -> dict[PathKey, settle.Watching]:
        """Paths that do not stand still yet, or are not finished, and why."""
        return dict(self._moving)

    def next_look_s(self) -> float | None:
        """Boottime of the next look that is due; None while nothing moves."""
        return min((self._look_at_s(key) for key in self._moving), default=None)

    def stop(self) -> None:
        """Break off a walk that is under way; nothing that it saw is judged."""
        self._stopped.set()

    def start_over(self) -> None:
        """Forget what was observed: after a sleep no window can be trusted. A walk must follow."""
        for key in list(self._moving):
            self._forget(key)

    async def walk(self, root: Root) -> None:
        """
        Look at every file of *root*.

        Raises:
            RootUnavailable: The root is missing, unreadable, empty although it once held a model,
                or on another file system than before. Nothing was judged.
        """
        started_s = self._clock.boottime_s()
        mount = await self._lanes.scan(_mount_of, root.path)
        walked = await self._lanes.scan(self._compare, root, "")
        marker, held_model = await self._lanes.db(self._store.files.marker, root.id)
        _require_present(root, mount, marker, held_model, walked)
        assert mount is not None, "required above"
        self.problems = {path: error.strerror or str(error) for path, error in walked.problems}
        await self._take_in(walked, hint=None)
        await self._lanes.db(
            self._store.files.mark_scanned,
            root.id,
            (mount.fs_type, mount.source, mount.root),
            self._clock.now_ms(),
            models=walked.models,
        )
        self._log.info(
            "scan.finished",
            root=root.path,
            files=walked.files,
            changed=len(walked.fresh),
            gone=len(walked.gone),
            seconds=round(self._clock.boottime_s() - started_s, 3),
        )

    async def look(self, hints: Collection[Hint]) -> None:
        """
        Look where something happened; a root that is hit as a whole is walked.

        Raises:
            RootUnavailable: As ``walk``.
        """
        whole = {hint.root_id for hint in hints if hint.rel_path == ""}
        for root_id in whole:
            await self.walk(self._roots[root_id])
        for hint in hints:
            if hint.root_id not in whole:
                await self._look_at(hint)

    async def settle_due(self) -> None:
        """Look again at the files whose window has passed; queue those that did not move."""
        now_s = self._clock.boottime_s()
        due = {key for key in self._moving if self._look_at_s(key) <= now_s}
        if due:
            due |= self._postponed  # whoever waits for a rival is judged in one go with it
        looks = [await self._look_again(key, hint=None) for key in sorted(due)]
        settled = [found for found in looks if found is not None]
        await self._admit(await self._sound(settled))

    # -- looking ---------------------------------------------------------------------------------

    async def _look_at(self, hint: Hint) -> None:
        root = self._roots[hint.root_id]
        if any(map(paths.never_enter, hint.rel_path.split("/")[:-1])):
            return  # what no walk enters, no hint leads to
        owner = _owner(hint.rel_path)
        if owner is not None and (root.id, owner) in self._moving:
            await self._look_again((root.id, owner), hint=hint.kind)
        if (root.id, hint.rel_path) in self._moving:
            await self._look_again((root.id, hint.rel_path), hint=hint.kind)
            return
        walked = await self._lanes.scan(self._compare_path, root, hint.rel_path)
        if walked.gone:
            await self._require_mounted(root)
        await self._take_in(walked, hint=hint.kind)

    async def _require_mounted(self, root: Root) -> None:
        """Files that are gone may be gone with their file system."""
        mount = await self._lanes.scan(_mount_of, root.path)
        marker, _ = await self._lanes.db(self._store.files.marker, root.id)
        if mount is None or not await self._lanes.scan(os.path.isdir, root.path):
            raise RootUnavailable(_missing(root))
        _require_same_mount(root, mount, marker)

    def _look_at_s(self, key: PathKey) -> float:
        """When to look again: at the end of the window; now and then where something is in the way."""
        watching = self._moving[key]
        if key in self._postponed:
            return self._looked_at_s[key] + RIVAL_LOOK_S
        if watching.blocked_by is None:
            return settle.settles_at_s(watching)
        return self._looked_at_s[key] + BLOCKED_LOOK_S

    async def _look_again(self, key: PathKey, *, hint: HintKind | None) -> FoundFile | None:
        """One more look at a path under observation; the file, if it has stood still long enough."""
        root, (_, rel_path) = self._roots[key[0]], key
        try:
            found, companion = await self._lanes.scan(_look, root, rel_path, self._symlinks)
        except OSError as error:
            self._block(key, f"it cannot be looked at: {error.strerror}")
            return None
        now_s = self._clock.boottime_s()
        self._observe(root, rel_path, found, companion, hint, now_s)
        watching = self._moving.get(key)
        if watching is None:
            self._log.debug("file.vanished", path=printable(rel_path))
        return found if watching is not None and settle.is_settled(watching, now_s) else None

    def _observe(
        self,
        root: Root,
        rel_path: str,
        found: FoundFile | None,
        companion: str | None,
        hint: HintKind | None,
        now_s: float,
    ) -> None:
        key = (root.id, rel_path)
        old = found is not None and self._is_old(found)
        watching = settle.look(
            self._moving.get(key) if old or not self._backfill else self._unhurried(key),
            found,
            now_s=now_s,
            hint=hint,
            windows=self._windows,
            network=root.network,
            companion=companion,
            old=old,
        )
        if watching is None:
            self._forget(key)
        else:
            self._moving[key] = watching
            self._looked_at_s[key] = now_s
        self._meter.settling(len(self._moving))

    def _forget(self, key: PathKey) -> None:
        self._moving.pop(key, None)
        self._looked_at_s.pop(key, None)
        self._postponed.discard(key)
        self._meter.settling(len(self._moving))

    # -- judging what stands still ---------------------------------------------------------------

    async def _sound(self, settled: Collection[FoundFile]) -> list[FoundFile]:
        """Those of *settled* that are whole models; the others are remembered, or wait."""
        sound: list[FoundFile] = []
        judged: list[tuple[FoundFile, Verdict, str, str | None]] = []
        for found in settled:
            root = self._roots[found.root_id]
            lease = self._read_lease and not root.network
            judgement = await self._lanes.scan(soundness.judge, root.path, found, lease=lease)
            why = judgement.why or "it still changes"
            if judgement.verdict is Verdict.WANTED:
                sound.append(found)
            elif judgement.verdict is None:
                self._block((found.root_id, found.rel_path), why)
            else:
                judged.append((found, judgement.verdict, why, self._model_path(found)))
        await self._remember_unsound(judged)
        return sound

    async def _remember_unsound(
        self, judged: Collection[tuple[FoundFile, Verdict, str, str | None]]
    ) -> None:
        if not judged:
            return
        for found, *_ in judged:
            self._forget((found.root_id, found.rel_path))
        freed = await self._lanes.db(self._store.files.judge, judged, self._clock.now_ms())
        for found, verdict, why, _ in judged:
            self._log.warning(f"file.{verdict}", path=found.rel_path, why=why)
        for root_id, rel_path in freed:
            self._on_freed(Hint(root_id, rel_path, HintKind.RESCAN))

    def _block(self, key: PathKey, why: str) -> None:
        """Something is in the way that no event may tell of: look again after a while."""
        self._moving[key] = replace(self._moving[key], blocked_by=why)
        self._looked_at_s[key] = self._clock.boottime_s()

    def _clock_ahead_s(self) -> float:
        """How far the clock that files are stamped by is ahead of the one that never jumps."""
        return self._clock.now_ms() / 1000 - self._clock.boottime_s()

    def _is_old(self, found: FoundFile) -> bool:
        """In a backfill: is its ctime long past, by a clock that nobody has set meanwhile?"""
        if not self._backfill or abs(self._clock_ahead_s() - self._ahead_s) > CLOCK_SLACK_S:
            return False
        age_s = self._clock.now_ms() / 1000 - found.fingerprint.ctime_ns / 1e9
        return age_s > settle.OLD_S

    def _unhurried(self, key: PathKey) -> settle.Watching | None:
        """What is watched of a path, unless its window was short for an age that is in doubt now."""
        watching = self._moving.get(key)
        shortest_s = min(self._windows.quiet_s, self._windows.closed_s)
        return None if watching is not None and watching.window_s < shortest_s else watching

    def _model_path(self, found: FoundFile) -> str:
        target = paths.target_of(found.rel_path, prefix=self._prefix)
        assert isinstance(target, Target), "refused names never get here"
        return target.model_path

    async def _admit(self, settled: Collection[FoundFile]) -> None:
        """Queue files, all in one commit: of two that clash none is claimed before both are seen."""
        wanted: list[tuple[FoundFile, Target, str]] = []
        moving = self._moving.keys() - {(found.root_id, found.rel_path) for found in settled}
        rivals = {self._clash_key(rel_path) for _, rel_path in moving} if settled else set()
        for found in settled:
            key = (found.root_id, found.rel_path)
            target = paths.target_of(found.rel_path, prefix=self._prefix)
            assert isinstance(target, Target), "refused names never get here"
            clash_key = paths.clash_key(target.model_path)
            if clash_key in rivals:  # it would be claimed before the other is seen
                self._postponed.add(key)
                continue
            self._forget(key)
            wanted.append((found, target, clash_key))
        if not wanted:
            return
        jobs = await self._lanes.db(self._store.files.admit, wanted, self._clock.now_ms())
        for found, target, _ in wanted:
            self._tell(found, target, jobs.get((found.root_id, found.rel_path)))
        self._on_queued()

    def _clash_key(self, rel_path: str) -> str:
        target = paths.target_of(rel_path, prefix=self._prefix)
        assert isinstance(target, Target), "refused names are not watched"
        return paths.clash_key(target.model_path)

    def _tell(self, found: FoundFile, target: Target, job_id: int | None) -> None:
        path, size = found.rel_path, found.fingerprint.size
        if job_id is None:
            self._log.warning("file.conflict", path=path, model_path=target.model_path)
            return
        self._meter.expect(job_id, size)
        self._log.info("file.queued", path=path, size=size, job_id=job_id)

    # -- comparing (in the scan thread) ----------------------------------------------------------

    def _compare(self, root: Root, below: str) -> _Walked:
        """Walk at or below a folder and compare with what is known, streaming both."""
        walked, unjudged = _Walked(), set[str]()

        def problem(rel_path: str, error: OSError) -> None:
            unjudged.add(rel_path)
            walked.problems.append((rel_path, error))

        def counted(found: Iterable[FoundFile]) -> Iterable[FoundFile]:
            for file in found:
                if self._stopped.is_set():
                    raise _BrokenOff
                walked.files += 1
                walked.models = walked.models or (
                    paths.unwanted(file.rel_path, file.fingerprint.size) is None
                )
                yield file

        found = scan.walk(root.path, root.id, below=below, symlinks=self._symlinks, problem=problem)
        with open_files(self._state_dir) as files:
            known = _doubted(root.path, files.known(root.id, below))
            _sort_in(walked, root.path, diff(counted(found), known, unjudged=unjudged))
        return walked

    def _compare_path(self, root: Root, rel_path: str) -> _Walked:
        """The same for one path, file or folder."""
        try:
            found = scan.look(root.path, root.id, rel_path, symlinks=self._symlinks)
        except OSError as error:
            return _Walked(problems=[(rel_path, error)])
        if found is None:
            return self._compare(root, rel_path)
        walked = _Walked(files=1)
        with open_files(self._state_dir) as files:
            known = _doubted(root.path, files.known(root.id, rel_path))
            _sort_in(walked, root.path, diff([found], known))
        return walked

    # -- deciding --------------------------------------------------------------------------------

    async def _take_in(self, walked: _Walked, *, hint: HintKind | None) -> None:
        # One time for all: what a walk met together settles together.
        now_ms, now_s = self._clock.now_ms(), self._clock.boottime_s()
        for rel_path, error in walked.problems:
            self._log.warning("scan.problem", path=rel_path, why=error.strerror)
        judged: list[tuple[FoundFile, Verdict, str, str | None]] = []
        for fresh in walked.fresh:
            found = fresh.found
            verdict = self._verdict(found)
            if verdict is not None:
                self._forget((found.root_id, found.rel_path))
                judged.append((found, *verdict))
            elif not await self._runs_on(fresh):
                root = self._roots[found.root_id]
                self._observe(root, found.rel_path, found, fresh.companion, hint, now_s)
        freed: list[PathKey] = []
        for start in range(0, len(judged), BATCH):
            batch = judged[start : start + BATCH]
            freed += await self._lanes.db(self._store.files.judge, batch, now_ms)
        if walked.gone:
            freed += await self._lanes.db(self._store.files.forget, walked.gone, now_ms)
            for gone in walked.gone:
                self._forget((gone.root_id, gone.rel_path))
                self._log.info("file.gone", path=gone.rel_path)
        for root_id, rel_path in freed:
            self._on_freed(Hint(root_id, rel_path, HintKind.RESCAN))

    def _verdict(self, found: FoundFile) -> tuple[Verdict, str, str | None] | None:
        """What needs no waiting: names never taken, and names the server would refuse."""
        why = paths.unwanted(found.rel_path, found.fingerprint.size)
        if why is not None:
            return Verdict.IGNORED, why, None
        target = paths.target_of(found.rel_path, prefix=self._prefix)
        if isinstance(target, Target):
            return None
        self._log.warning("file.refused", path=found.rel_path, why=target.reason)
        return Verdict.REFUSED, target.reason, printable(target.model_path)

    async def _runs_on(self, fresh: _Fresh) -> bool:
        """Only ctime moved under a live job: its worker reads again, nothing is voided."""
        found, known = fresh.found, fresh.known
        if known is None or known.verdict is not Verdict.WANTED:
            return False
        if not Moved(found, known).only_ctime:
            return False
        return await self._lanes.db(self._store.files.refresh, found, self._clock.now_ms())


def _sort_in(walked: _Walked, root: str, changes: Iterable[Change]) -> None:
    """Collect *changes*; one listing a folder tells what downloaders still work at there."""
    companions: dict[str, dict[str, str]] = {}
    for change in changes:
        if isinstance(change, Gone):
            walked.gone.append(change.known)
            continue
        folder, name = os.path.split(change.found.rel_path)
        if folder not in companions:
            companions[folder] = _companions(root, folder)
        known = change.known if isinstance(change, Moved) else None
        walked.fresh.append(_Fresh(change.found, known, companions[folder].get(name)))


def _doubted(root: str, known: Iterable[KnownFile]) -> Iterable[KnownFile]:
    """What was incomplete is looked at again wherever somebody looks, whether or not it moved."""
    for file in known:
        if file.verdict is Verdict.INCOMPLETE and not soundness.still_broken(root, file):
            yield replace(file, fingerprint=file.fingerprint._replace(ctime_ns=-1))
        else:
            yield file


def _require_present(
    root: Root,
    mount: Mount | None,
    marker: tuple[str, str, str] | None,
    held_model: bool,
    walked: _Walked,
) -> None:
    """Nothing is concluded from an absent tree."""
    if any(rel_path == "" for rel_path, _ in walked.problems) or mount is None:
        raise RootUnavailable(_missing(root))
    if not held_model:
        return
    if not walked.models:
        raise RootUnavailable(
            f"{printable(root.path)} holds no model, although it did before. Nothing was judged: "
            "is its disk mounted? If the models were really removed, start with a new state directory."
        )
    _require_same_mount(root, mount, marker)


def _require_same_mount(root: Root, mount: Mount, marker: tuple[str, str, str] | None) -> None:
    if marker is not None and marker != (mount.fs_type, mount.source, mount.root):
        raise RootUnavailable(
            f"{printable(root.path)} lies on another file system than before ({mount.fs_type} "
            f"{printable(mount.source)}, it was {marker[0]} {printable(marker[1])}). Nothing was "
            "judged: mount the old one, or start with a new state directory."
        )


def _missing(root: Root) -> str:
    return (
        f"The models directory {printable(root.path)} is missing or cannot be read. Nothing was "
        "judged. Check models_dir, the mount, and the permissions of the account that runs syncd."
    )


def _mount_of(path: str) -> Mount | None:
    try:
        return scan.mount_of(path)
    except OSError:
        return None


def _look(
    root: Root, rel_path: str, symlinks: scan.Symlinks
) -> tuple[FoundFile | None, str | None]:
    """The file as it is now, and its companion; raises OSError where it cannot be told."""
    found = scan.look(root.path, root.id, rel_path, symlinks=symlinks)
    folder, name = os.path.split(rel_path)
    return found, _companions(root.path, folder).get(name)


def _companions(root: str, folder: str) -> dict[str, str]:
    try:
        return scan.companions(root, folder)
    except OSError:
        return {}  # a folder that cannot be listed has nothing to settle either


def _owner(rel_path: str) -> str | None:
    folder, name = os.path.split(rel_path)
    owner = paths.owner_of(name)
    return None if owner is None else os.path.join(folder, owner)
