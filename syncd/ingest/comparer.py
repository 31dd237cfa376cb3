"""
Compares a tree with what is known of it, and decides about the files that differ.

All of it runs in the scan thread. Each scan of a whole root reads its rules again. A decision stands until
the file or its rules change, or a file appears or goes away that ComfyUI would load in its place.
"""

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from syncd.core.files import naming
from syncd.core.files.boundary import Boundary
from syncd.core.files.diff import Change, Changed, Gone, New, diff
from syncd.core.files.search_paths import PathKey, Tree
from syncd.core.files.selection import (
    INDEX_ENDING,
    Rules,
    Selected,
    Skipped,
    is_current,
    is_excluded,
    judge,
    missing_files,
)
from syncd.fs import scanner
from syncd.ingest import integrity
from syncd.store.files import Files, KnownFiles
from syncd.types import FoundFile, KnownFile, Verdict, printable

T = TypeVar("T")
R = TypeVar("R")

_ENDINGS = tuple(map(os.fsencode, naming.ENDINGS))

FileState = tuple[FoundFile, str | None] | OSError | None
"""A file and the companion of a downloader beside it, if any; None where there is no file."""

Companions = Callable[[str, str], dict[str, str]]
"""``companions_in``, cached for a batch."""

SKIPPED_BATCH = 20_000  # skipped files in memory at a time
CANDIDATE_BATCH = 5_000  # candidates in memory at a time; each takes more


@dataclass(frozen=True, slots=True)
class Root:
    """
    A watched directory as the operator spelled it, and its id in the store.

    ``type_key`` is the model_type of all its files; None for ``models_dir``, where it is the first folder.
    """

    id: int
    path: str
    network: bool
    type_key: str | None = None

    def display_path(self, rel_path: str) -> str:
        """Return the path below ``models_dir``, or the absolute path in other directories."""
        return rel_path if self.type_key is None else os.path.join(self.path, rel_path)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A selected file that is not as known; ``companion`` is a downloader's file beside it."""

    found: FoundFile
    known: KnownFile | None
    selected: Selected
    companion: str | None

    @property
    def only_ctime_changed(self) -> bool:
        """Whether nothing else changed, and the file keeps its place in the catalog."""
        return (
            self.known is not None
            and Changed(self.found, self.known).only_ctime
            and is_current(self.selected, self.known)
        )

    @property
    def is_unchanged(self) -> bool:
        """Whether new rules or other files, not new bytes, make it a candidate."""
        known = self.known
        return known is not None and known.fingerprint.same_file_as(self.found.fingerprint)


class ScanStopped(Exception):
    """``stop`` was called; what the scan found is not used."""


@dataclass(slots=True)
class ScanResult:
    """
    What a scan found.

    ``skipped`` are files that are not as known and get no job. ``reconsider`` are files elsewhere that
    ComfyUI loads, or loaded, instead of a file here. ``links`` are links to folders.
    """

    candidates: list[Candidate] = field(default_factory=list)
    skipped: list[tuple[FoundFile, Skipped]] = field(default_factory=list)
    gone: list[KnownFile] = field(default_factory=list)
    reconsider: list[PathKey] = field(default_factory=list)
    problems: list[tuple[str, OSError]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    files: int = 0
    has_model: bool = False

    def emptied(self, models_below: Mapping[str, int], observed: Sequence[str]) -> Iterator[str]:
        """
        Yield the folders whose known models are all gone, and in which no other model was found.

        *models_below* counts the models known in each folder; *observed* are files that are not known yet.
        """
        gone = [file.rel_path for file in self.gone if file.verdict is not Verdict.IGNORED]
        for folder, known in models_below.items():
            lost = sum(naming.is_within(rel_path, {folder}) for rel_path in gone)
            has_new = any(naming.is_within(rel_path, {folder}) for rel_path in observed)
            if known and lost == known and not has_new:
                yield folder


class Comparer:
    """
    Examines the roots.

    Args:
        files: Known files, read next to the writer; None if nothing is compared.
        kept: Files and directories of syncd itself, which no link may publish.
    """

    def __init__(
        self,
        roots: Mapping[int, Root],
        *,
        files: Files | None,
        symlinks: scanner.Symlinks,
        tree: Tree,
        rules_of: Callable[[Root], Rules],
        kept: Collection[str] = (),
    ) -> None:
        self._roots = roots
        self._paths = [root.path for root in roots.values()]
        self._files = files
        self._symlinks = symlinks
        self._tree = tree
        self._rules_of = rules_of
        self._kept = kept
        self._boundary = self._resolved_boundary()
        self._rules: dict[int, Rules] = {}
        self._stopped = threading.Event()
        self.files_seen = 0

    def stop(self) -> None:
        """Interrupt the current scan, from any thread."""
        self._stopped.set()

    def read_rules(self, root: Root) -> str:
        """Read the rules of *root* again and return their digest. Raises RootUnavailable."""
        rules = self._rules[root.id] = self._rules_of(root)
        self._boundary = self._resolved_boundary()
        return rules.digest

    def _resolved_boundary(self) -> Boundary:
        return Boundary(
            frozenset(map(os.path.realpath, self._paths)),
            frozenset(map(os.path.realpath, self._kept)),
        )

    def batches(
        self,
        root: Root,
        folder: str = "",
        *,
        problem: scanner.Problem,
        on_link: Callable[[str], None] = lambda rel_path: None,
    ) -> Iterator[scanner.FileBatch]:
        """Yield what ``scanner.scan`` finds below *folder* by the rules for links."""
        return scanner.scan(
            root.path,
            root.id,
            below=folder,
            symlinks=self._symlinks,
            roots=self._paths,
            problem=problem,
            on_link=on_link,
        )

    def scan(self, root: Root, folder: str = "", *, rejudge: bool = False) -> Iterator[ScanResult]:
        """
        Scan *folder* and what is below it, and compare with what is known, streaming both.

        Yields the result whenever ``SKIPPED_BATCH`` or ``CANDIDATE_BATCH`` is reached, and at the end. It
        is always the same object, whose ``skipped`` and ``candidates`` the caller may clear. *rejudge*
        means to decide again about files that did not change.

        Raises:
            ScanStopped: ``stop`` was called.
        """
        result, unjudged = ScanResult(), set[str]()

        def problem(rel_path: str, error: OSError) -> None:
            unjudged.add(rel_path)
            if not self.is_silenced(root, rel_path, error):
                result.problems.append((rel_path, error))

        batches = self.batches(root, folder, problem=problem, on_link=result.links.append)
        counted = self._counted(result, root, batches)
        changes = self._changes(counted, self._known(root, folder), unjudged, rejudge=rejudge)
        for _ in self._sort_in(result, root, changes, cache(companions_in)):
            if len(result.skipped) >= SKIPPED_BATCH or len(result.candidates) >= CANDIDATE_BATCH:
                yield result
        yield result

    def _counted(
        self, result: ScanResult, root: Root, batches: Iterable[scanner.FileBatch]
    ) -> Iterator[scanner.FileBatch]:
        for batch in batches:
            if self._stopped.is_set():
                raise ScanStopped
            result.files += len(batch.keys)
            self.files_seen += len(batch.keys)
            result.has_model = result.has_model or _has_model(root, batch)
            yield batch

    def _changes(
        self,
        batches: Iterable[scanner.FileBatch],
        known: KnownFiles,
        unjudged: Collection[str],
        *,
        rejudge: bool,
    ) -> Iterator[Change]:
        """``diff`` of what a scan finds; a batch in which nothing changed costs no objects."""
        is_current = self._is_current(rejudge)
        for batch in batches:
            if rejudge or not known.pass_over(batch.keys):
                before = known.through(batch.keys[-1][0])
                yield from diff(batch.files(), before, unjudged=unjudged, is_current=is_current)
        yield from diff((), known, unjudged=unjudged, is_current=is_current)

    def compare_paths(self, root: Root, paths: Mapping[str, bool]) -> list[ScanResult]:
        """Compare single files or folders; *paths* says which are judged again. Raises ScanStopped."""
        companions = cache(companions_in)
        return [
            self._compare_path(root, path, companions, rejudge=paths[path])
            for path in self._unless_stopped(paths)
        ]

    def _compare_path(
        self, root: Root, rel_path: str, companions: Companions, *, rejudge: bool
    ) -> ScanResult:
        try:
            found = self.find(root, rel_path)
        except OSError as error:
            return ScanResult(problems=[(rel_path, error)])
        if found is None:
            *_, result = self.scan(root, rel_path, rejudge=rejudge)
            return result
        result = ScanResult(files=1)
        changes = diff([found], self._known(root, rel_path), is_current=self._is_current(rejudge))
        list(self._sort_in(result, root, changes, companions))
        return result

    def find(self, root: Root, rel_path: str) -> FoundFile | None:
        return scanner.find_file(
            root.path, root.id, rel_path, symlinks=self._symlinks, roots=self._paths
        )

    def examine(self, keys: Iterable[PathKey]) -> list[FileState]:
        """Return what is at each path now, with one listing per folder for companions. Raises ScanStopped."""
        companions = cache(companions_in)
        wanted = self._unless_stopped(keys)
        return [self._state(self._roots[root_id], path, companions) for root_id, path in wanted]

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Call *function* for each of *items*; raises ScanStopped after ``stop``."""
        return [function(item) for item in self._unless_stopped(items)]

    def _unless_stopped(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self._stopped.is_set():
                raise ScanStopped
            yield item

    def _state(self, root: Root, rel_path: str, companions: Companions) -> FileState:
        try:
            found = self.find(root, rel_path)
        except OSError as error:
            return error
        folder, name = os.path.split(rel_path)
        return None if found is None else (found, companions(root.path, folder).get(name))

    def is_silenced(self, root: Root, rel_path: str, error: OSError) -> bool:
        """Return whether *error* is a dangling link that a pattern excludes."""
        if not isinstance(error, scanner.DanglingLink):
            return False
        if root.id not in self._rules:
            self.read_rules(root)
        return is_excluded(self._rules[root.id], rel_path)

    def judge(self, file: FoundFile | KnownFile) -> Selected | Skipped:
        """Decide about a file by its name, its size and the files that ComfyUI loads first."""
        if file.root_id not in self._rules:
            self.read_rules(self._roots[file.root_id])

        def instead(rel_path: str) -> str | None:
            first = next(self._there(self._tree.before(file.root_id, rel_path)), None)
            return None if first is None else self._path_of(first)

        rules = self._rules[file.root_id]
        return judge(rules, file.rel_path, file.fingerprint.size, loaded_instead=instead)

    def judge_growing(self, file: FoundFile) -> Selected | Skipped:
        """Decide as ``judge`` does, but treat an empty file as one that will grow."""
        fingerprint = file.fingerprint
        grown = fingerprint._replace(size=max(fingerprint.size, 1))
        return self.judge(file._replace(fingerprint=grown))

    def judge_content(self, found: FoundFile, *, lease: bool) -> integrity.Judgement:
        root = self._roots[found.root_id].path
        judged = integrity.judge(root, found, boundary=self._boundary, lease=lease)
        if judged.verdict is not None and found.fingerprint.size == 0:  # no program writes to it
            return integrity.Judgement(Verdict.IGNORED, naming.EMPTY)
        return judged

    def missing_from_bundle(
        self, root: Root, bundle: str, settled: Collection[str] = ()
    ) -> str | None:
        """
        Return what prevents the files of a bundle from being sent, or None.

        *settled* are those of its paths that are settled and valid; others may already be queued.
        """
        known = {file.rel_path: file for file in self._known(root, _folder(root, bundle))}

        def is_ready(file: FoundFile) -> bool:
            before = known.get(file.rel_path)
            return file.rel_path in settled or (
                before is not None
                and before.verdict is Verdict.WANTED
                and before.fingerprint.same_file_as(file.fingerprint)
            )

        return self.blocking_bundle_member(root, bundle, is_ready)

    def blocking_bundle_member(
        self, root: Root, bundle: str, is_ready: Callable[[FoundFile], bool]
    ) -> str | None:
        """Return the first member that is not ready or not there, with the reason, or None."""
        problems, names, ready = list[str](), list[str](), list[str]()

        def problem(path: str, error: OSError) -> None:
            problems.append(f"{path}: {error.strerror}")

        for file in scanner.files_in(self.batches(root, _folder(root, bundle), problem=problem)):
            judged = self.judge(file)
            if isinstance(judged, Selected):
                names.append(file.rel_path)
                (ready if is_ready(file) else problems).append(file.rel_path)
            elif judged.verdict is not Verdict.IGNORED or judged.reason == naming.UNFINISHED:
                problems.append(f"{file.rel_path}: {judged.reason}")
        indexes = {}
        for name in ready:  # others may be links to outside files, which an error would quote
            if name.endswith(INDEX_ENDING):
                try:
                    indexes[name] = integrity.shards_in(os.path.join(root.path, name))
                except (ValueError, OSError) as error:
                    problems.append(f"{name}: {error}")
        problems += [f"{name}, which is not there" for name in missing_files(names, indexes)]
        return printable(min(problems)) if problems else None

    def _known(self, root: Root, below: str) -> KnownFiles:
        assert self._files is not None, "a comparer that compares has files"
        return self._files.known(root.id, below)

    def _is_current(self, rejudge: bool) -> Callable[[KnownFile], bool]:
        def verdict_is_current(known: KnownFile) -> bool:
            # The reason why a file was incomplete may be over although the file did not change.
            root = self._roots[known.root_id]
            if known.verdict is Verdict.INCOMPLETE and not integrity.still_broken(root.path, known):
                return False
            return not rejudge or is_current(self.judge(known), known)

        return verdict_is_current

    def _there(self, keys: Iterable[PathKey]) -> Iterator[PathKey]:
        return (key for key in keys if os.path.isfile(self._path_of(key)))

    def _path_of(self, key: PathKey) -> str:
        return os.path.join(self._roots[key[0]].path, key[1])

    def _sort_in(
        self, result: ScanResult, root: Root, changes: Iterable[Change], companions: Companions
    ) -> Iterator[Change]:
        for change in changes:
            file = change.known if isinstance(change, Gone) else change.found
            if (
                isinstance(change, Gone)
                and (problem := find_cut_off(root, file.rel_path)) is not None
            ):
                reported = {rel_path for rel_path, _ in result.problems}
                if problem[0] not in reported and not self.is_silenced(root, *problem):
                    result.problems.append(problem)
                continue
            if not isinstance(change, Changed):
                result.reconsider += self._there(self._tree.after(root.id, file.rel_path))
            if isinstance(change, Gone):
                result.gone.append(change.known)
            elif isinstance(judged := self.judge_growing(change.found), Skipped):
                result.skipped.append((change.found, judged))
            else:
                folder, name = os.path.split(file.rel_path)
                known = None if isinstance(change, New) else change.known
                companion = companions(root.path, folder).get(name)
                result.candidates.append(Candidate(change.found, known, judged, companion))
            yield change


def _folder(root: Root, bundle: str) -> str:
    return bundle if root.type_key is None else bundle.partition("/")[2]


def is_model(root: Root, file: FoundFile) -> bool:
    return naming.unwanted(file.rel_path, file.fingerprint.size, type_key=root.type_key) is None


def _has_model(root: Root, batch: scanner.FileBatch) -> bool:
    candidates = any(trace[0].lower().endswith(_ENDINGS) for trace in batch.keys)
    return candidates and any(is_model(root, file) for file in batch.files())


def find_cut_off(root: Root, rel_path: str) -> tuple[str, OSError] | None:
    """Return where a dangling link or an unreadable folder hides a file that may still exist, and why."""
    try:
        link = scanner.dangling_folder_link(root.path, rel_path)
    except OSError as error:
        return os.path.dirname(rel_path), error
    return None if link is None else (link, scanner.DanglingLink())


def companions_in(root: str, folder: str) -> dict[str, str]:
    """Return the names in a folder that a downloader is writing, each with its companion."""
    try:
        return scanner.unfinished_downloads(root, folder)
    except OSError:
        return {}  # a folder that cannot be listed has no file that settles
