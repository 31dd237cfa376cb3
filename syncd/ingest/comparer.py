"""
Compares the tree with what is known of it, and judges what differs: all of it in the scan thread.

Each whole walk reads the rules of its root anew. What was decided about a file holds until the file
changes, its rules do, or a file comes or goes that ComfyUI would load in its place.
"""

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from syncd.core.files import bundles, naming
from syncd.core.files.boundary import Boundary
from syncd.core.files.diff import Change, Gone, Moved, New, diff
from syncd.core.files.search_paths import PathKey, Tree
from syncd.core.files.selection import Rules, Selected, Skipped, is_excluded, judge, stands
from syncd.errors import RootUnavailable
from syncd.fs import scanner
from syncd.ingest import integrity
from syncd.store.files import Files, KnownFiles
from syncd.types import FoundFile, KnownFile, Mount, Verdict, printable

T = TypeVar("T")
R = TypeVar("R")

_ENDINGS = tuple(map(os.fsencode, naming.ENDINGS))

Look = tuple[FoundFile, str | None] | OSError | None
"""A file and the name beside it that a downloader keeps, if any; None where there is no file."""

Companions = Callable[[str, str], dict[str, str]]
"""``companions_in``, of which a batch remembers what it was told."""

ACCEPT = "accept the directories as they are now: syncd scan --accept"

PASSED_MAX = 20_000
"""Files that get no job, held in memory at a time: they are most of a large tree."""


FRESH_MAX = 5_000
"""Files that are taken and held in memory at a time, each with all that was decided about it."""


@dataclass(frozen=True, slots=True)
class Root:
    """
    A watched directory as the operator spelled it, its id in the store, and where it lies.

    ``type_key`` is the model_type of all its files; None for ``models_dir``, where the first folder
    is the type.
    """

    id: int
    path: str
    network: bool
    type_key: str | None = None

    def shown(self, rel_path: str) -> str:
        """What a person is told: the path below ``models_dir``, elsewhere all of it."""
        return rel_path if self.type_key is None else os.path.join(self.path, rel_path)


@dataclass(frozen=True, slots=True)
class Fresh:
    """
    A file that is not as known and is taken, and what stands in its way.

    ``companion`` is the name beside it that a downloader keeps, if any.
    """

    found: FoundFile
    known: KnownFile | None
    judged: Selected
    companion: str | None

    @property
    def only_ctime_moved(self) -> bool:
        """Nothing else did, and it still goes where it went."""
        return (
            self.known is not None
            and Moved(self.found, self.known).only_ctime
            and stands(self.judged, self.known)
        )

    @property
    def is_unchanged(self) -> bool:
        """It is here for new rules, or for other files, not for bytes of its own."""
        known = self.known
        return known is not None and known.fingerprint.same_file_as(self.found.fingerprint)


class BrokenOff(Exception):
    """The walk was told to stop; nobody waits for what it saw."""


@dataclass(slots=True)
class Walked:
    """
    What a walk found.

    ``passed`` are files that are not as known and get no job. ``doubtful`` are files elsewhere that
    a file here is loaded instead of, or was. ``links`` are folders that were entered through a link.
    """

    fresh: list[Fresh] = field(default_factory=list)
    passed: list[tuple[FoundFile, Skipped]] = field(default_factory=list)
    gone: list[KnownFile] = field(default_factory=list)
    doubtful: list[PathKey] = field(default_factory=list)
    problems: list[tuple[str, OSError]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    files: int = 0
    models: bool = False

    def emptied(self, models_below: Mapping[str, int], observed: Sequence[str]) -> Iterator[str]:
        """
        The folders whose known models are all gone, and in which no other model was found.

        Args:
            models_below: How many models were known in each.
            observed: Paths of the files that were found and are not known yet.
        """
        for folder, known in models_below.items():
            gone = [
                each
                for each in self.gone
                if each.verdict is not Verdict.IGNORED and naming.is_within(each.rel_path, {folder})
            ]
            fresh = any(naming.is_within(rel_path, {folder}) for rel_path in observed)
            if known and len(gone) == known and not fresh:
                yield folder


class Comparer:
    """
    Looks at the roots.

    Args:
        files: What is known, read beside the writer; judging alone needs none.
        tree: Which file ComfyUI loads where several have one name.
        rules_of: Reads the rules of a root.
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
        self.seen = 0  # files that walks have met so far

    def stop(self) -> None:
        """Break off the walk that is under way, from any thread."""
        self._stopped.set()

    def read_rules(self, root: Root) -> str:
        """
        Read the rules of *root* anew; their digest.

        Raises:
            RootUnavailable: They cannot be read.
        """
        rules = self._rules[root.id] = self._rules_of(root)
        self._boundary = self._resolved_boundary()
        return rules.digest

    def _resolved_boundary(self) -> Boundary:
        roots, kept = (
            frozenset(map(os.path.realpath, paths)) for paths in (self._paths, self._kept)
        )
        return Boundary(roots, kept)

    def below(self, root: Root, folder: str, *, afresh: bool = False) -> Walked:
        """The whole of ``walk`` at or below *folder*."""
        *_, walked = self.walk(root, folder, afresh=afresh)
        return walked

    def walk(self, root: Root, folder: str = "", *, afresh: bool = False) -> Iterator[Walked]:
        """
        Walk at or below *folder* and compare with what is known, streaming both.

        Yields what was found so far whenever ``PASSED_MAX`` more files are skipped or ``FRESH_MAX``
        more are taken, and at the end. It is always the same object, whose ``passed`` and ``fresh``
        the caller may clear.

        *Afresh*: what was decided about files that did not change is decided again.

        Raises:
            BrokenOff: It was told to stop.
        """
        walked, unjudged = Walked(), set[str]()

        def problem(rel_path: str, error: OSError) -> None:
            unjudged.add(rel_path)
            if not self.is_silenced(root, rel_path, error):
                walked.problems.append((rel_path, error))

        stretches = scanner.walk_batches(
            root.path,
            root.id,
            below=folder,
            symlinks=self._symlinks,
            roots=self._paths,
            problem=problem,
            on_link=walked.links.append,
        )
        counted = self._counted(walked, root, stretches)
        changes = self._changes(counted, self._known(root, folder), unjudged, afresh=afresh)
        for _ in self._sort_in(walked, root, changes, cache(companions_in)):
            if len(walked.passed) >= PASSED_MAX or len(walked.fresh) >= FRESH_MAX:
                yield walked
        yield walked

    def _counted(
        self, walked: Walked, root: Root, stretches: Iterable[scanner.FileBatch]
    ) -> Iterator[scanner.FileBatch]:
        for stretch in stretches:
            if self._stopped.is_set():
                raise BrokenOff
            walked.files += len(stretch.keys)
            self.seen += len(stretch.keys)
            walked.models = walked.models or _has_model(root, stretch)
            yield stretch

    def _changes(
        self,
        stretches: Iterable[scanner.FileBatch],
        known: KnownFiles,
        unjudged: Collection[str],
        *,
        afresh: bool,
    ) -> Iterator[Change]:
        """``diff`` of what a walk meets; of a stretch in which nothing changed no value is made."""
        stands = self._stands(afresh)
        for stretch in stretches:
            if afresh or not known.pass_over(stretch.keys):
                before = known.through(stretch.keys[-1][0])
                yield from diff(stretch.files(), before, unjudged=unjudged, stands=stands)
        yield from diff((), known, unjudged=unjudged, stands=stands)

    def at(self, root: Root, asked: Mapping[str, bool]) -> list[Walked]:
        """
        The same for single paths, files or folders; of each, whether it is decided *afresh*.

        Raises:
            BrokenOff: It was told to stop.
        """
        companions = cache(companions_in)
        return [
            self._at(root, path, companions, afresh=asked[path])
            for path in self._unless_stopped(asked)
        ]

    def _at(self, root: Root, rel_path: str, companions: Companions, *, afresh: bool) -> Walked:
        try:
            found = self.find(root, rel_path)
        except OSError as error:
            return Walked(problems=[(rel_path, error)])
        if found is None:
            return self.below(root, rel_path, afresh=afresh)
        walked = Walked(files=1)
        changes = diff([found], self._known(root, rel_path), stands=self._stands(afresh))
        for _ in self._sort_in(walked, root, changes, companions):
            pass
        return walked

    def find(self, root: Root, rel_path: str) -> FoundFile | None:
        """The file as it is now, if there is one; raises OSError where it cannot be told."""
        return scanner.find_file(
            root.path, root.id, rel_path, symlinks=self._symlinks, roots=self._paths
        )

    def look(self, keys: Iterable[PathKey]) -> list[Look]:
        """
        What is at each path now; one listing a folder tells what downloaders work at.

        Raises:
            BrokenOff: It was told to stop.
        """
        companions = cache(companions_in)
        wanted = self._unless_stopped(keys)
        return [self._look(self._roots[root_id], path, companions) for root_id, path in wanted]

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """*function* of each of *items*; raises BrokenOff once it was told to stop."""
        return list(map(function, self._unless_stopped(items)))

    def _unless_stopped(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self._stopped.is_set():
                raise BrokenOff
            yield item

    def _look(self, root: Root, rel_path: str, companions: Companions) -> Look:
        try:
            found = self.find(root, rel_path)
        except OSError as error:
            return error
        folder, name = os.path.split(rel_path)
        return None if found is None else (found, companions(root.path, folder).get(name))

    def is_silenced(self, root: Root, rel_path: str, error: OSError) -> bool:
        """Is *error* a dangling link that ``.syncdignore`` or ``select.exclude`` leaves out?"""
        if not isinstance(error, scanner.DanglingLink):
            return False
        if root.id not in self._rules:
            self.read_rules(root)
        return is_excluded(self._rules[root.id], rel_path)

    def judge(self, file: FoundFile | KnownFile) -> Selected | Skipped:
        """What becomes of a file, by its name, its size and the files that come before it."""
        if file.root_id not in self._rules:
            self.read_rules(self._roots[file.root_id])

        def instead(rel_path: str) -> str | None:
            first = next(self._there(self._tree.before(file.root_id, rel_path)), None)
            return None if first is None else self._path_of(first)

        rules = self._rules[file.root_id]
        return judge(rules, file.rel_path, file.fingerprint.size, instead=instead)

    def judge_growing(self, file: FoundFile) -> Selected | Skipped:
        """As ``judge``, but of an empty file, what becomes of it if it grows."""
        fingerprint = file.fingerprint
        grown = fingerprint._replace(size=max(fingerprint.size, 1))
        return self.judge(file._replace(fingerprint=grown))

    def judge_content(self, found: FoundFile, *, lease: bool) -> integrity.Judgement:
        """What becomes of a file that is taken by its name, by its content and where it lies."""
        root = self._roots[found.root_id].path
        judged = integrity.judge(root, found, boundary=self._boundary, lease=lease)
        if (
            judged.verdict is not None and found.fingerprint.size == 0
        ):  # and no program writes to it
            return integrity.Judgement(Verdict.IGNORED, naming.EMPTY)
        return judged

    def bundle_waits_for(
        self, root: Root, bundle: str, settled: Collection[str] = ()
    ) -> str | None:
        """
        What keeps the files of a bundle from going, or None.

        Args:
            settled: Those of its paths that stand still and are whole; others may be queued already.
        """
        known = {each.rel_path: each for each in self._known(root, _folder(root, bundle))}

        def is_ready(file: FoundFile) -> bool:
            before = known.get(file.rel_path)
            return file.rel_path in settled or (
                before is not None
                and before.verdict is Verdict.WANTED
                and before.fingerprint.same_file_as(file.fingerprint)
            )

        return self.waits_for(root, bundle, is_ready)

    def waits_for(
        self, root: Root, bundle: str, is_ready: Callable[[FoundFile], bool]
    ) -> str | None:
        """The same, where *is_ready* tells which files may go."""
        problems: list[str] = []
        names, ready = list[str](), list[str]()
        for file in scanner.walk(
            root.path,
            root.id,
            below=_folder(root, bundle),
            symlinks=self._symlinks,
            roots=self._paths,
            problem=lambda path, error: problems.append(f"{path}: {error.strerror}"),
        ):
            judged = self.judge(file)
            if isinstance(judged, Selected):
                names.append(file.rel_path)
                (ready if is_ready(file) else problems).append(file.rel_path)
            elif judged.verdict is not Verdict.IGNORED or judged.reason == naming.UNFINISHED:
                problems.append(f"{file.rel_path}: {judged.reason}")
        indexes = {}
        for name in ready:  # others may be links to files outside, which an error would quote
            if name.endswith(bundles.INDEX_ENDING):
                try:
                    indexes[name] = integrity.shards_in(os.path.join(root.path, name))
                except (ValueError, OSError) as error:
                    problems.append(f"{name}: {error}")
        problems += [f"{name}, which is not there" for name in bundles.missing(names, indexes)]
        return printable(min(problems)) if problems else None

    def _known(self, root: Root, below: str) -> KnownFiles:
        assert self._files is not None, "whoever compares has them"
        return self._files.known(root.id, below)

    def _stands(self, afresh: bool) -> Callable[[KnownFile], bool]:
        def stand(known: KnownFile) -> bool:
            return not self._in_doubt(known) and (not afresh or stands(self.judge(known), known))

        return stand

    def _in_doubt(self, known: KnownFile) -> bool:
        """What was incomplete is looked at again wherever somebody looks, whether or not it moved."""
        root = self._roots[known.root_id]
        return known.verdict is Verdict.INCOMPLETE and not integrity.still_broken(root.path, known)

    def _there(self, keys: Iterable[PathKey]) -> Iterator[PathKey]:
        return (key for key in keys if os.path.isfile(self._path_of(key)))

    def _path_of(self, key: PathKey) -> str:
        return os.path.join(self._roots[key[0]].path, key[1])

    def _sort_in(
        self, walked: Walked, root: Root, changes: Iterable[Change], companions: Companions
    ) -> Iterator[Change]:
        """Collect *changes* as they come."""
        for change in changes:
            file = change.known if isinstance(change, Gone) else change.found
            if isinstance(change, Gone) and (problem := cut_off(root, file.rel_path)) is not None:
                known_ones = {rel_path for rel_path, _ in walked.problems}
                if problem[0] not in known_ones and not self.is_silenced(root, *problem):
                    walked.problems.append(problem)
                continue
            if not isinstance(change, Moved):
                walked.doubtful += self._there(self._tree.after(root.id, file.rel_path))
            if isinstance(change, Gone):
                walked.gone.append(change.known)
            elif isinstance(judged := self.judge_growing(change.found), Skipped):
                walked.passed.append((change.found, judged))
            else:
                folder, name = os.path.split(file.rel_path)
                known = None if isinstance(change, New) else change.known
                companion = companions(root.path, folder).get(name)
                walked.fresh.append(Fresh(change.found, known, judged, companion))
            yield change


def _folder(root: Root, bundle: str) -> str:
    """Where a bundle lies below its root."""
    return bundle if root.type_key is None else bundle.partition("/")[2]


def is_model(root: Root, file: FoundFile) -> bool:
    """Does the root hold a model, whatever the operator's rules say of it?"""
    return naming.unwanted(file.rel_path, file.fingerprint.size, type_key=root.type_key) is None


def _has_model(root: Root, stretch: scanner.FileBatch) -> bool:
    """``is_model`` of any file; asked of most trees once, of those without a model for all files."""
    candidates = any(trace[0].lower().endswith(_ENDINGS) for trace in stretch.keys)
    return candidates and any(is_model(root, file) for file in stretch.files())


def cut_off(root: Root, rel_path: str) -> tuple[str, OSError] | None:
    """
    What forbids to conclude from its absence that a file is gone: where it is, and why.

    It is a folder above it that is a link to nowhere, or that cannot be looked at.
    """
    try:
        link = scanner.dangling_folder_link(root.path, rel_path)
    except OSError as error:
        return os.path.dirname(rel_path), error
    return None if link is None else (link, scanner.DanglingLink())


def changed_mounts(before: Mapping[str, Mount], now: Mapping[str, Mount]) -> list[str]:
    """
    The folders of a root where a file system was mounted, unmounted or replaced, outermost first.

    Args:
        before: As the last whole walk of the root left them; empty if there was none.
    """
    folders = sorted(before.keys() | now.keys()) if before else []
    return [folder for folder in folders if before.get(folder) != now.get(folder)]


def require_same_mounts(
    root: Root,
    before: Mapping[str, Mount],
    now: Mapping[str, Mount],
    held_models: Callable[[str], object],
) -> None:
    """
    Where a root held models, its file systems must be those of the last whole walk.

    Args:
        held_models: True of a folder that held models; ``""`` is the root itself.

    Raises:
        RootUnavailable: A folder that held models lies on another file system.
    """
    for folder in changed_mounts(before, now):
        if held_models(folder):
            raise RootUnavailable(
                f"{_absolute(root, folder)} lies on another file system than before "
                f"({_mount_text(now.get(folder))}, it was {_mount_text(before.get(folder))}). "
                f"Nothing was judged: mount the old one, or {ACCEPT}."
            )


def emptied(root: Root, folder: str = "") -> RootUnavailable:
    """What to raise for a root, or a file system below it, that held models and holds none."""
    return RootUnavailable(
        f"{_absolute(root, folder)} holds no model, although it did before. Nothing was judged: "
        f"is its disk mounted? If the models were removed on purpose, {ACCEPT}."
    )


def _absolute(root: Root, folder: str) -> str:
    return printable(os.path.join(root.path, folder) if folder else root.path)


def _mount_text(mount: Mount | None) -> str:
    return "no mount" if mount is None else f"{mount.fs_type} {printable(mount.source)}"


def companions_in(root: str, folder: str) -> dict[str, str]:
    """The names in a folder that a downloader still works at, each with what it keeps beside it."""
    try:
        return scanner.unfinished_downloads(root, folder)
    except OSError:
        return {}  # a folder that cannot be listed has nothing to settle either
