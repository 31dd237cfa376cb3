"""What syncd would do with each file of a tree, and why, without doing it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from syncd.core.files import naming
from syncd.core.files.search_paths import PathKey
from syncd.core.files.selection import Selected, Skipped
from syncd.core.jobs.parts import Route, choose_route
from syncd.types import Fingerprint, FoundFile


class Action(StrEnum):
    """What would happen to a file."""

    UPLOAD = "upload"
    NEEDS_SIGN_IN = "needs_sign_in"
    REGISTERED = "registered"  # nothing to do
    FAILED = "failed"  # failed as it is; not tried again before it changes
    CANCELLED = "cancelled"  # somebody gave up on it; not sent before it changes
    DRIFT = "drift"  # others deleted, disabled or moved its record; sent again only if asked for
    REFUSED = "refused"
    CONFLICT = "conflict"
    UNREADABLE = "unreadable"
    INCOMPLETE = "incomplete"
    SHADOWED = "shadowed"  # ComfyUI loads another file under this name
    IGNORED = "ignored"


BY_CONTENT = frozenset((Action.REFUSED, Action.UNREADABLE, Action.INCOMPLETE))
"""What may become of a file that is wanted by its name."""


@dataclass(frozen=True, slots=True)
class Known:
    """
    What the store says of a path: the fingerprint it was judged under and where it stands.

    ``sha256`` and ``record_id`` are those of its last job.
    """

    fingerprint: Fingerprint
    state: str
    reason: str | None
    model_path: str | None = None
    sha256: str | None = None
    record_id: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """
    One file of the plan. ``rel_path`` is raw.

    ``rule`` is what took or left the file: an ending, a line of the configuration, a reason.
    """

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
        """Bytes."""
        return self.fingerprint.size


@dataclass(frozen=True, slots=True)
class Way:
    """What decides how a file travels. Bytes."""

    single_put_limit: int
    session: bool


def preview(
    found: Iterable[FoundFile],
    known: Mapping[PathKey, Known],
    way: Way,
    judge: Callable[[FoundFile], Selected | Skipped],
) -> list[Step]:
    """
    The plan for all roots, in the order of *found*.

    Whether the catalog already holds a file's bytes is known only after hashing it, so an upload
    may turn out to need no byte at all.

    Args:
        judge: What becomes of a file by its name and size alone.
    """
    judged = [(file, judge(file)) for file in found]
    clashes: defaultdict[str, list[FoundFile]] = defaultdict(list)
    for file, verdict in judged:
        if isinstance(verdict, Selected):
            clashes[naming.clash_key(verdict.target.model_path)].append(file)
    return [
        _passed(file, verdict)
        if isinstance(verdict, Skipped)
        else _taken(file, verdict, known.get((file.root_id, file.rel_path)), clashes, way)
        for file, verdict in judged
    ]


def _passed(file: FoundFile, passed: Skipped) -> Step:
    action, reason = Action(passed.verdict), passed.reason
    return Step(
        file.root_id, file.rel_path, file.fingerprint, action, reason, reason, passed.model_path
    )


def _taken(
    file: FoundFile,
    taken: Selected,
    known: Known | None,
    clashes: Mapping[str, list[FoundFile]],
    way: Way,
) -> Step:
    model_path = taken.target.model_path
    rivals = [rival for rival in clashes[naming.clash_key(model_path)] if rival is not file]
    if rivals:
        action, reason = (
            Action.CONFLICT,
            f"{rivals[0].rel_path} would get the same place in the catalog",
        )
    else:
        action, reason = _wanted(file, model_path, known, way)
    rule = reason if action in BY_CONTENT else taken.rule
    bundle = taken.target.bundle
    return Step(
        file.root_id, file.rel_path, file.fingerprint, action, reason, rule, model_path, bundle
    )


def _wanted(file: FoundFile, model_path: str, known: Known | None, way: Way) -> tuple[Action, str]:
    same = known is not None and known.fingerprint.same_file_as(file.fingerprint)
    if known is not None and same and known.model_path == model_path:
        if known.state == "registered":
            return Action.REGISTERED, "in the catalog, unchanged since"
        if known.state == Action.CANCELLED:
            return (
                Action.CANCELLED,
                f"{known.reason}; to send it after all: syncd retry, with its path",
            )
        if known.state in ("failed", "drift", "unreadable", "incomplete", "refused"):
            return Action(known.state), known.reason or f"{known.state} before, unchanged since"
    return _journey(file.fingerprint.size, known, way)


def _journey(size: int, known: Known | None, way: Way) -> tuple[Action, str]:
    route = choose_route(
        size, single_put_limit=way.single_put_limit, session=way.session, multipart=True
    )
    if route is Route.NEEDS_SIGN_IN:
        limit = way.single_put_limit
        return Action.NEEDS_SIGN_IN, (
            f"above the {limit} bytes a device key may send in one request: "
            "syncd login --large-files"
        )
    how = "in parts" if route is Route.MULTIPART else "in one request"
    return Action.UPLOAD, f"{'new' if known is None else 'changed or unfinished'}, {how}"
