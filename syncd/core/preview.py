"""What syncd would do with each file of a tree, and why, without doing it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from syncd.core import paths
from syncd.core.parts import Route, choose_route
from syncd.model import Fingerprint, FoundFile, Target


class Action(StrEnum):
    """What would happen to a file."""

    UPLOAD = "upload"
    NEEDS_SIGN_IN = "needs_sign_in"
    REGISTERED = "registered"  # nothing to do
    FAILED = "failed"  # failed as it is; not tried again before it changes
    REFUSED = "refused"
    CONFLICT = "conflict"
    UNREADABLE = "unreadable"
    INCOMPLETE = "incomplete"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Known:
    """What the store says of a path: the fingerprint it was judged under and where it stands."""

    fingerprint: Fingerprint
    state: str
    why: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """One file of the plan. ``rel_path`` is raw; ``size`` is bytes."""

    rel_path: str
    size: int
    action: Action
    why: str
    model_path: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide. Bytes."""

    prefix: str
    single_put_limit: int
    session: bool


def preview(found: Iterable[FoundFile], known: Mapping[str, Known], rules: Rules) -> list[Step]:
    """
    The plan for one root, in the order of *found*.

    Whether the catalog already holds a file's bytes is known only after hashing it, so an upload
    may turn out to need no byte at all.
    """
    files = list(found)
    clashes = _clashes(files, rules)
    return [_step(file, known.get(file.rel_path), clashes, rules) for file in files]


def _step(
    file: FoundFile, known: Known | None, clashes: Mapping[str, list[str]], rules: Rules
) -> Step:
    size = file.fingerprint.size
    unwanted = paths.unwanted(file.rel_path, size)
    if unwanted is not None:
        return Step(file.rel_path, size, Action.IGNORED, unwanted)
    target = paths.target_of(file.rel_path, prefix=rules.prefix)
    if not isinstance(target, Target):
        return Step(file.rel_path, size, Action.REFUSED, target.reason, target.model_path)
    action, why = _wanted(file, target, known, clashes, rules)
    return Step(file.rel_path, size, action, why, target.model_path)


def _wanted(
    file: FoundFile,
    target: Target,
    known: Known | None,
    clashes: Mapping[str, list[str]],
    rules: Rules,
) -> tuple[Action, str]:
    rivals = [r for r in clashes[paths.clash_key(target.model_path)] if r != file.rel_path]
    if rivals:
        return Action.CONFLICT, f"{rivals[0]} would get the same place in the catalog"
    if known is not None and _same(known.fingerprint, file.fingerprint):
        if known.state == "registered":
            return Action.REGISTERED, "in the catalog, unchanged since"
        if known.state in ("failed", "unreadable", "incomplete", "refused"):
            return Action(known.state), known.why or f"{known.state} before, unchanged since"
    return _journey(file.fingerprint.size, known, rules)


def _journey(size: int, known: Known | None, rules: Rules) -> tuple[Action, str]:
    route = choose_route(
        size, single_put_limit=rules.single_put_limit, session=rules.session, multipart=True
    )
    if route is Route.NEEDS_SIGN_IN:
        limit = rules.single_put_limit
        return Action.NEEDS_SIGN_IN, f"above the {limit} bytes a device key may send in one request"
    how = "in parts" if route is Route.MULTIPART else "in one request"
    return Action.UPLOAD, f"{'new' if known is None else 'changed or unfinished'}, {how}"


def _same(a: Fingerprint, b: Fingerprint) -> bool:
    return (a.inode, a.size, a.mtime_ns, a.ctime_ns) == (b.inode, b.size, b.mtime_ns, b.ctime_ns)


def _clashes(files: Iterable[FoundFile], rules: Rules) -> Mapping[str, list[str]]:
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for rel_path, target in _targets(files, rules):
        by_key[paths.clash_key(target.model_path)].append(rel_path)
    return by_key


def _targets(files: Iterable[FoundFile], rules: Rules) -> Iterator[tuple[str, Target]]:
    for file in files:
        if paths.unwanted(file.rel_path, file.fingerprint.size) is None:
            target = paths.target_of(file.rel_path, prefix=rules.prefix)
            if isinstance(target, Target):
                yield file.rel_path, target
