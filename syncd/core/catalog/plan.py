"""The dry run: what syncd would do with each file, and why."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from syncd.core.files import naming
from syncd.core.files.search_paths import PathKey
from syncd.core.files.selection import Selected, Skipped
from syncd.core.jobs.parts import Route, choose_route
from syncd.types import Fingerprint, FoundFile


class Action(StrEnum):
    UPLOAD = "upload"
    NEEDS_SIGN_IN = "needs_sign_in"
    REGISTERED = "registered"  # nothing to do
    FAILED = "failed"  # failed before and unchanged; not retried
    CANCELLED = "cancelled"  # cancelled by the user and unchanged
    DRIFT = "drift"  # others changed its record; uploaded again only on request
    REFUSED = "refused"
    CONFLICT = "conflict"
    UNREADABLE = "unreadable"
    INCOMPLETE = "incomplete"
    SHADOWED = "shadowed"  # ComfyUI loads another file under this name
    IGNORED = "ignored"


# Actions that depend on the content of a file, not only on its name.
BY_CONTENT = frozenset((Action.REFUSED, Action.UNREADABLE, Action.INCOMPLETE))


@dataclass(frozen=True, slots=True)
class Known:
    """The state of a path in the store, with the fingerprint and the last job's facts."""

    fingerprint: Fingerprint
    state: str
    reason: str | None
    model_path: str | None = None
    sha256: str | None = None
    record_id: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A file in the plan. ``rule`` is what selected or excluded it: an ending, a line or a reason."""

    root_id: int
    rel_path: str
    fingerprint: Fingerprint
    action: Action
    reason: str
    rule: str
    model_path: str | None = None
    bundle: str | None = None

    @property
    def size(self) -> int:
        return self.fingerprint.size


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """What decides whether a file is sent in one request or in parts."""

    single_put_limit: int
    session: bool


def plan_files(
    found: Iterable[FoundFile],
    known: Mapping[PathKey, Known],
    limits: RouteLimits,
    judge: Callable[[FoundFile], Selected | Skipped],
) -> list[Step]:
    """
    Return the plan for all roots, in the order of *found*.

    Files are not hashed, so an upload in the plan may turn out to be in the catalog already.
    """
    judged = [(file, judge(file)) for file in found]
    clashes: defaultdict[str, list[FoundFile]] = defaultdict(list)
    for file, verdict in judged:
        if isinstance(verdict, Selected):
            clashes[naming.clash_key(verdict.target.model_path)].append(file)
    return [
        _step(file, verdict, known.get((file.root_id, file.rel_path)), clashes, limits)
        for file, verdict in judged
    ]


def _step(
    file: FoundFile,
    selected: Selected | Skipped,
    known: Known | None,
    clashes: Mapping[str, list[FoundFile]],
    limits: RouteLimits,
) -> Step:
    step = partial(Step, file.root_id, file.rel_path, file.fingerprint)
    if isinstance(selected, Skipped):
        action, reason = Action(selected.verdict), selected.reason
        return step(action, reason, reason, selected.model_path)
    model_path = selected.target.model_path
    rivals = [rival for rival in clashes[naming.clash_key(model_path)] if rival is not file]
    if rivals:
        action = Action.CONFLICT
        reason = f"{rivals[0].rel_path} would get the same place in the catalog"
    else:
        action, reason = _wanted(file, model_path, known, limits)
    rule = reason if action in BY_CONTENT else selected.rule
    return step(action, reason, rule, model_path, selected.target.bundle)


def _wanted(
    file: FoundFile, model_path: str, known: Known | None, limits: RouteLimits
) -> tuple[Action, str]:
    same = known is not None and known.fingerprint.same_file_as(file.fingerprint)
    if known is not None and same and known.model_path == model_path:
        if known.state == "registered":
            return Action.REGISTERED, "in the catalog and unchanged"
        if known.state == Action.CANCELLED:
            return Action.CANCELLED, f"{known.reason}; to upload it: syncd retry, with its path"
        if known.state in ("failed", "drift", "unreadable", "incomplete", "refused"):
            return Action(known.state), known.reason or f"{known.state} before and unchanged"
    return _route(file.fingerprint.size, known, limits)


def _route(size: int, known: Known | None, limits: RouteLimits) -> tuple[Action, str]:
    route = choose_route(
        size, single_put_limit=limits.single_put_limit, session=limits.session, multipart=True
    )
    if route is Route.NEEDS_SIGN_IN:
        return Action.NEEDS_SIGN_IN, (
            f"larger than the {limits.single_put_limit} bytes of one request, and a device key cannot "
            "send parts: syncd login --large-files"
        )
    how = "in parts" if route is Route.MULTIPART else "in one request"
    return Action.UPLOAD, f"{'new' if known is None else 'changed or unfinished'}, {how}"
