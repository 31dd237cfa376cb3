"""
Which files still change, why, and when to examine each of them again.

This state is in memory only: after a restart, the scan finds these files again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from syncd.clock import Clock
from syncd.core.files import naming, settling
from syncd.core.files.search_paths import PathKey
from syncd.core.files.settling import Observation, Windows
from syncd.ingest.comparer import Candidate, Root
from syncd.monitoring.progress import Meter, Settling
from syncd.types import FoundFile, HintKind, Priority, printable

SETTLED_MAX = 10_000  # files that are queued together, so that memory is bounded
BLOCKED_RETRY_S = 10.0  # between examinations of a blocked file; an event may come first
CONFLICT_RETRY_S = 1.0  # the same for a file that waits for another one with the same place


@dataclass(slots=True)
class TrackedFile:
    """
    A file that is not known to have stopped changing.

    ``postponed`` means that it waits for another file with the same ``clash_key``. ``missing_from_bundle``
    says what its ``bundle`` still lacks.
    """

    observation: Observation
    examined_at_s: float
    priority: Priority
    clash_key: str
    bundle: str | None = None
    postponed: bool = False
    missing_from_bundle: str | None = None

    @property
    def blocked_by(self) -> str | None:
        """What other than time keeps it from being queued."""
        if self.postponed:
            return "it waits for a file that would get the same place in the catalog"
        return self.missing_from_bundle or self.observation.blocked_by

    @property
    def due_at_s(self) -> float:
        if self.postponed:
            return self.examined_at_s + CONFLICT_RETRY_S
        if self.blocked_by is None:
            return settling.settles_at_s(self.observation)
        return self.examined_at_s + BLOCKED_RETRY_S


class SettleTracker:
    def __init__(
        self,
        roots: Mapping[int, Root],
        *,
        clock: Clock,
        meter: Meter,
        windows: Callable[[], Windows],
    ) -> None:
        self._roots = roots
        self._clock = clock
        self._meter = meter
        self._windows = windows
        self._files: dict[PathKey, TrackedFile] = {}

    def __contains__(self, key: PathKey) -> bool:
        return key in self._files

    def __getitem__(self, key: PathKey) -> TrackedFile:
        return self._files[key]

    # -- what is tracked -------------------------------------------------------------------------

    def unsettled(self) -> dict[PathKey, Observation]:
        return {
            key: replace(file.observation, blocked_by=file.blocked_by)
            for key, file in self._files.items()
        }

    def progress(self) -> Iterator[Settling]:
        """Yield the same for display, in order of first observation; iterate without an await."""
        now_s = self._clock.boottime_s()
        for (root_id, rel_path), file in self._files.items():
            left_s = max(settling.settles_at_s(file.observation) - now_s, 0.0)
            yield Settling(
                path=printable(self._roots[root_id].display_path(rel_path)),
                size=file.observation.fingerprint.size,
                seconds_left=round(left_s, 1) if file.blocked_by is None else None,
                reason=file.blocked_by,
            )

    def next_due_s(self) -> float | None:
        return min((file.due_at_s for file in self._files.values()), default=None)

    def due(self) -> set[PathKey]:
        """
        Return the files to examine now: about ``SETTLED_MAX``; the others stay due.

        Files with one clash key, and the members of one bundle, come together.
        """
        now_s = self._clock.boottime_s()
        due = [key for key, file in self._files.items() if file.due_at_s <= now_s]
        if not due:
            return set()
        if len(due) > SETTLED_MAX:
            due.sort(key=lambda key: self._files[key].clash_key)
            last = self._files[due[SETTLED_MAX - 1]].clash_key
            due = [key for key in due if self._files[key].clash_key <= last]
        together = {*due, *(key for key, file in self._files.items() if file.postponed)}
        bundles = {self._bundle_of(key) for key in together} - {None}
        return together | {key for key in self._files if self._bundle_of(key) in bundles}

    def clash_keys_except(self, keys: Iterable[PathKey]) -> set[str]:
        return {self._files[key].clash_key for key in self._files.keys() - set(keys)}

    def non_empty_paths(self, root: Root) -> list[str]:
        return [
            rel_path
            for (root_id, rel_path), file in self._files.items()
            if root_id == root.id and file.observation.fingerprint.size > 0
        ]

    def _bundle_of(self, key: PathKey) -> tuple[int, str] | None:
        bundle = self._files[key].bundle
        return None if bundle is None else (key[0], bundle)

    # -- what changes it -------------------------------------------------------------------------

    def observe(
        self, candidate: Candidate, hint: HintKind | None, now_s: float, *, backfill: bool
    ) -> None:
        found, target = candidate.found, candidate.selected.target
        before = self._files.get((found.root_id, found.rel_path))
        # Files of the first scan, and files that only new rules select, can wait.
        can_wait = backfill or candidate.is_unchanged
        self._files[found.root_id, found.rel_path] = TrackedFile(
            self._observe(
                before.observation if before else None, found, candidate.companion, hint, now_s
            ),
            now_s,
            Priority.BACKFILL if can_wait else Priority.FRESH,
            naming.clash_key(target.model_path),
            target.bundle,
        )
        self._meter.settling(len(self._files))

    def examined(
        self,
        found: FoundFile,
        companion: str | None,
        hint: HintKind | None,
        *,
        began_s: float,
        ended_s: float,
    ) -> bool:
        """
        Note that a tracked file was examined between the two times; return whether it has settled.

        A window begins with the end of one examination and is over if the next one began after it.
        """
        file = self._files[found.root_id, found.rel_path]
        file.observation = self._observe(file.observation, found, companion, hint, ended_s)
        file.examined_at_s = ended_s
        settled = settling.is_settled(file.observation, began_s)
        if not settled:
            file.missing_from_bundle = None
        return settled

    def block(self, key: PathKey, reason: str) -> None:
        """Note an obstacle whose end no event may report: the file is examined again later."""
        file = self._files[key]
        file.observation = replace(file.observation, blocked_by=reason)
        file.examined_at_s = self._clock.boottime_s()

    def forget(self, key: PathKey) -> None:
        if self._files.pop(key, None) is not None:
            self._meter.settling(len(self._files))

    def clear(self) -> None:
        """Forget all files, because no window can be trusted any more. A scan must follow."""
        self._files.clear()
        self._meter.settling(0)

    def _observe(
        self,
        before: Observation | None,
        found: FoundFile,
        companion: str | None,
        hint: HintKind | None,
        now_s: float,
    ) -> Observation:
        return settling.observe(
            before,
            found,
            now_s=now_s,
            hint=hint,
            windows=self._windows(),
            network=self._roots[found.root_id].network,
            companion=companion,
        )
