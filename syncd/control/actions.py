"""
Operator commands on the queue, carried out on the store by the daemon or by the command line.

Each action is one commit, so it can be repeated after a full disk. All functions run on the store's thread.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from syncd.core.files.search_paths import PathKey
from syncd.store.reports import Named
from syncd.store.store import Store
from syncd.types import FileState, HoldKind

REPEATABLE = frozenset(
    {FileState.FAILED, FileState.CANCELLED, FileState.WAITING, FileState.NEEDS_SIGN_IN}
)
"""States of files whose job can be tried again."""

EXAMINABLE = frozenset(
    {FileState.REFUSED, FileState.CONFLICT, FileState.UNREADABLE, FileState.INCOMPLETE}
)
"""States of files without a job: they can be examined again."""

RETRIABLE = (*sorted(REPEATABLE), *sorted(EXAMINABLE), FileState.DRIFT)
ALL = frozenset(RETRIABLE) - {FileState.DRIFT}
"""The states of ``retry --all``: it does not undo a decision about a record."""

BUMPABLE = frozenset({FileState.QUEUED, FileState.WAITING})
CANCELLABLE = BUMPABLE | {FileState.UPLOADING, FileState.NEEDS_SIGN_IN, FileState.FAILED}

LEFT_REASONS: Mapping[str, str] = {
    FileState.REGISTERED: "it is in the catalog",
    FileState.UPLOADING: "it is being uploaded",
    FileState.QUEUED: "it is queued; to have it first: syncd bump",
    FileState.WAITING: "it waits for its next try; to try it now: syncd retry",
    FileState.FAILED: "it failed; to try it again: syncd retry",
    FileState.CANCELLED: "it was cancelled; to send it after all: syncd retry",
    FileState.NEEDS_SIGN_IN: "it needs a user session; syncd status says more",
    FileState.IGNORED: "the rules ignore it",
    FileState.SHADOWED: "ComfyUI loads another file under its name",
}
"""Why an action leaves a file alone, by its state."""

BUNDLED = "it is stored and waits for another file of its bundle; syncd file names that one"

UNKNOWN = "no such file is known; the path is the one that syncd status shows, or an absolute one"


@dataclass(slots=True)
class ActionResult:
    """
    The result of an action; files are display paths.

    Args:
        examined: Files without a job, which are examined again.
        left: Files that it left alone, with the reason.
        look_at: Paths to examine again.
        ended: Jobs whose workers must stop.
    """

    files: list[str] = field(default_factory=list)
    examined: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    look_at: list[PathKey] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)


def pause(store: Store, now_ms: int) -> ActionResult:
    """Start nothing until ``resume``, across restarts."""
    store.holds.pause(now_ms)
    return ActionResult()


def resume(store: Store, now_ms: int) -> ActionResult:
    """End a pause."""
    store.holds.clear(HoldKind.PAUSED)
    return ActionResult()


def accept(store: Store, now_ms: int) -> ActionResult:
    """Take the watched directories as they are at the next scan, whatever disks they were on before."""
    store.files.accept()
    return ActionResult()


def retry(
    store: Store, now_ms: int, *, paths: Sequence[str] = (), states: Collection[str] = ()
) -> ActionResult:
    """
    Try the named files again, and all files in one of *states* (of ``RETRIABLE``).

    Holds are probed at once, as the operator may have removed their cause.
    """
    result = ActionResult()

    def again(place: Named) -> bool:
        if place.state in EXAMINABLE:
            result.look_at.append(place.key)
            result.examined.append(place.shown)
            return True
        if place.state is FileState.DRIFT:
            store.jobs.send_again(*place.key, now_ms)
        else:
            assert place.job_id is not None, "a wanted file has a job"
            if not store.jobs.retry_now(place.job_id, now_ms):
                return False
        result.files.append(place.shown)
        return True

    with store.transaction():
        _each_named(store, paths, frozenset(RETRIABLE), again, result)
        if states:
            for place in store.report.places():
                if place.state in states:
                    again(place)
        store.files.judge_afresh(result.look_at)
        store.holds.probe_now(now_ms)
    return result


def bump(store: Store, now_ms: int, *, paths: Sequence[str]) -> ActionResult:
    """Move queued files before all others, ordered by size."""
    return _each_job(store, paths, BUMPABLE, lambda job_id: store.jobs.bump(job_id, now_ms))


def cancel(store: Store, now_ms: int, *, paths: Sequence[str]) -> ActionResult:
    """Cancel files until they change or are retried."""
    ended: list[int] = []

    def end(job_id: int) -> None:
        store.jobs.cancel(job_id, now_ms)
        ended.append(job_id)

    result = _each_job(store, paths, CANCELLABLE, end)
    result.ended = ended
    return result


def _each_job(
    store: Store, paths: Sequence[str], states: Collection[str], act: Callable[[int], object]
) -> ActionResult:
    result = ActionResult()

    def carry_out(place: Named) -> bool:
        assert place.job_id is not None, "a file in these states has a job"
        act(place.job_id)
        result.files.append(place.shown)
        return True

    with store.transaction():
        _each_named(store, paths, states, carry_out, result)
    return result


def _each_named(
    store: Store,
    paths: Sequence[str],
    states: Collection[str],
    carry_out: Callable[[Named], bool],
    result: ActionResult,
) -> None:
    """
    Carry out an action on each named file in one of *states*, and note why not on the others.

    Args:
        carry_out: Returns False if the file waits for another file of its bundle.
    """
    for path in paths:
        places = store.report.places(path)
        fit = [place for place in places if place.state in states]
        for place in fit:
            if not carry_out(place):
                result.left[place.shown] = BUNDLED
        if not places:
            result.left[path] = UNKNOWN
        for place in () if fit else places:
            result.left[place.shown] = LEFT_REASONS.get(place.state, f"it is {place.state}")
