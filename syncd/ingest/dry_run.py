"""The dry run: decides about each file as the daemon would, and writes nothing."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from syncd.config.extra_paths import extra_folders
from syncd.config.loader import Loaded
from syncd.config.rules import rules_for
from syncd.config.settings import Settings, require_claimed
from syncd.core.catalog.plan import Action, Known, RouteLimits, Step, plan_files
from syncd.core.files import naming, settling
from syncd.core.files.search_paths import PathKey, Tree
from syncd.core.files.selection import Rules
from syncd.errors import RootUnavailable
from syncd.fs.mounts import mounts_in
from syncd.fs.scanner import files_in
from syncd.ingest.comparer import (
    Comparer,
    Root,
    companions_in,
    find_cut_off,
    is_model,
)
from syncd.ingest.root_guard import emptied, require_same_mounts
from syncd.store.db import reading
from syncd.store.files import RootRow
from syncd.store.reports import Report
from syncd.types import FoundFile, Session, Verdict, printable


@dataclass(frozen=True, slots=True)
class Planned:
    """
    A step for each file. Roots have numbers that are valid for this plan only; models_dir is 0.

    ``problems`` says what could not be examined. ``absent`` are directories of extra_model_paths that never
    existed.
    """

    roots: Mapping[int, Root]
    steps: Sequence[Step]
    known: Mapping[PathKey, Known]
    problems: Mapping[str, str]
    absent: Sequence[str]


def make_plan(loaded: Loaded) -> Planned:
    """
    Scan the trees, read the store, and decide about each file.

    Raises RootUnavailable; ConfigError if the store belongs to another cloud or team; StateError.
    """
    settings = loaded.settings
    limits = RouteLimits(settings.api.single_put_limit, session=loaded.credential.is_session)
    roots, tree = roots_of(settings)
    comparer = comparer_of(settings, roots, tree)
    known, rows = _known_files(loaded, roots)
    problems: dict[str, str] = {}
    absent: list[str] = []
    links: dict[int, list[str]] = {root_id: [] for root_id in roots}
    found = [
        file
        for root in roots.values()
        for file in _scan(comparer, root, problems, absent, links[root.id].append)
    ]
    for root in roots.values():
        if root.id in rows:
            _require_same_tree(root, rows[root.id], found, known, links[root.id])
    here = {(file.root_id, file.rel_path) for file in found}
    for root_id, rel_path in known.keys() - here:
        problem = find_cut_off(roots[root_id], rel_path)
        if problem is not None and not comparer.is_silenced(roots[root_id], *problem):
            where, error = problem
            problems[roots[root_id].display_path(where)] = error.strerror or str(error)
    steps = plan_files(found, known, limits, comparer.judge)
    steps = list(_with_integrity(comparer, roots, found, steps))
    return Planned(roots, list(_with_bundles(comparer, roots, steps)), known, problems, absent)


def comparer_of(settings: Settings, roots: Mapping[int, Root], tree: Tree) -> Comparer:
    """Return a comparer that judges the files of *roots* as the daemon would."""

    def rules_of(root: Root) -> Rules:
        return rules_for(settings, root.path, type_key=root.type_key)

    return Comparer(
        roots,
        files=None,
        symlinks=settings.scan.symlinks,
        tree=tree,
        rules_of=rules_of,
        kept=settings.kept_paths,
    )


def _with_integrity(
    comparer: Comparer,
    roots: Mapping[int, Root],
    found: Iterable[FoundFile],
    steps: Iterable[Step],
) -> Iterator[Step]:
    companions = cache(companions_in)
    for file, step in zip(found, steps, strict=True):
        if step.action in (Action.UPLOAD, Action.NEEDS_SIGN_IN):
            root, (folder, name) = roots[file.root_id].path, os.path.split(file.rel_path)
            reason = settling.blocked_by(file, companions(root, folder).get(name))
            if reason is not None:
                yield replace(step, action=Action.INCOMPLETE, reason=reason, rule=reason)
                continue
            judgement = comparer.judge_content(file, lease=False)
            if judgement.verdict not in (None, Verdict.WANTED):
                reason = judgement.reason or ""
                yield replace(step, action=Action(judgement.verdict), reason=reason, rule=reason)
                continue
        yield step


def _with_bundles(
    comparer: Comparer, roots: Mapping[int, Root], steps: Sequence[Step]
) -> Iterator[Step]:
    """Yield the steps; those of an incomplete bundle become incomplete."""
    ready_actions = (Action.UPLOAD, Action.NEEDS_SIGN_IN, Action.REGISTERED)
    ready = {(step.root_id, step.rel_path) for step in steps if step.action in ready_actions}

    @cache
    def waits_for(root_id: int, bundle: str) -> str | None:
        return comparer.blocking_bundle_member(
            roots[root_id], bundle, lambda file: (file.root_id, file.rel_path) in ready
        )

    for step in steps:
        reason = None
        if step.action is Action.UPLOAD and step.bundle is not None:
            reason = waits_for(step.root_id, step.bundle)
        if reason is None:
            yield step
        else:
            reason = f"the bundle {printable(step.bundle or '')} waits for {reason}"
            yield replace(step, action=Action.INCOMPLETE, reason=reason, rule=reason)


def _require_same_tree(
    root: Root,
    row: RootRow,
    found: Iterable[FoundFile],
    known: Mapping[PathKey, Known],
    links: Collection[str],
) -> None:
    """Require the root and the file systems below it, as the daemon does."""
    if not row.held_model:
        return
    before = [
        rel_path
        for (root_id, rel_path), file in known.items()
        if root_id == root.id and file.state != Action.IGNORED
    ]

    def held_models(folder: str) -> bool:
        return not folder or any(naming.is_within(rel_path, {folder}) for rel_path in before)

    mounts = mounts_in(root.path, {*row.mounts, *links})
    require_same_mounts(root, row.mounts, mounts, held_models)
    models = [f.rel_path for f in found if f.root_id == root.id and is_model(root, f)]
    for folder in sorted({"", *row.mounts}):
        if held_models(folder) and not any(naming.is_within(path, {folder}) for path in models):
            raise emptied(root, folder)


def roots_of(settings: Settings) -> tuple[Mapping[int, Root], Tree]:
    """Number the roots: models_dir is 0, the directories of extra_model_paths follow."""
    folders = extra_folders(settings)
    own = dict.fromkeys((f.path, f.type_key) for f in folders if f.top is None)
    numbers = {place: number for number, place in enumerate(own, start=1)}
    roots = {0: Root(0, os.fspath(settings.models_dir), network=False)}
    for (path, type_key), number in numbers.items():
        roots[number] = Root(number, path, network=False, type_key=type_key)
    return roots, Tree(0, [(numbers.get((f.path, f.type_key), 0), f) for f in folders])


def _scan(
    comparer: Comparer,
    root: Root,
    problems: dict[str, str],
    absent: list[str],
    on_link: Callable[[str], None],
) -> Iterator[FoundFile]:
    def problem(rel_path: str, error: OSError) -> None:
        if rel_path == "" and isinstance(error, FileNotFoundError) and root.type_key is not None:
            absent.append(root.path)  # ComfyUI tolerates that
        elif rel_path == "":
            raise RootUnavailable(
                f"The models directory {printable(root.path)} cannot be read: {error.strerror}. "
                "Check models_dir, the mount, and the permissions of your account."
            )
        elif not comparer.is_silenced(root, rel_path, error):
            problems[root.display_path(rel_path)] = error.strerror or str(error)

    return files_in(comparer.batches(root, problem=problem, on_link=on_link))


def _known_files(
    loaded: Loaded, roots: Mapping[int, Root]
) -> tuple[dict[PathKey, Known], dict[int, RootRow]]:
    known: dict[PathKey, Known] = {}
    rows: dict[int, RootRow] = {}
    real_paths = {root.id: os.path.realpath(root.path) for root in roots.values()}
    with reading(os.fspath(loaded.settings.state_dir), Report) as report:
        if report is None:
            return known, rows
        if (claimed := report.cloud()) is not None:
            token = loaded.credential.current()
            team_id = token.team_id if isinstance(token, Session) else loaded.settings.api.team_id
            require_claimed(loaded.settings, claimed, team_id)
        for root in roots.values():
            real_path = real_paths[root.id]
            row = report.root(root.path, real_path=real_path, type_key=root.type_key)
            if row is not None:
                rows[root.id] = row
            files = report.known(root.path, real_path=real_path, type_key=root.type_key)
            known |= {(root.id, rel_path): file for rel_path, file in files.items()}
    return known, rows
