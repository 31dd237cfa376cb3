"""
What a person tells syncd to do with the queue, carried out on the store.

The same on a running daemon, which hands its store over and acts on what comes back, and on a store
at rest, whose next owner finds what was committed. Each order is one commit, so that one which finds
the disk full can be given again. All methods belong on the store's thread.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from syncd.core.files.search_paths import PathKey
from syncd.store.reports import Named
from syncd.store.store import Store
from syncd.types import FileState, HoldKind

AGAIN = frozenset(
    {FileState.FAILED, FileState.CANCELLED, FileState.WAITING, FileState.NEEDS_SIGN_IN}
)
"""States whose job can be tried again."""

AFRESH = frozenset(
    {FileState.REFUSED, FileState.CONFLICT, FileState.UNREADABLE, FileState.INCOMPLETE}
)
"""States of files without a job: they can be looked at again."""

RETRIABLE = (*sorted(AGAIN), *sorted(AFRESH), FileState.DRIFT)
ALL = frozenset(RETRIABLE) - {FileState.DRIFT}
"""What ``retry --all`` means: somebody's decision about a record is not undone along with the rest."""

BUMPABLE = frozenset({FileState.QUEUED, FileState.WAITING})
CANCELLABLE = BUMPABLE | {FileState.UPLOADING, FileState.NEEDS_SIGN_IN, FileState.FAILED}

WHY_NOT: Mapping[str, str] = MappingProxyType(
    {
        FileState.REGISTERED: "it is in the catalog",
        FileState.UPLOADING: "it is being worked at",
        FileState.QUEUED: "it is queued; to have it first: syncd bump",
        FileState.WAITING: "it waits for its next try; to try it now: syncd retry",
        FileState.FAILED: "it failed; to try it again: syncd retry",
        FileState.CANCELLED: "it was cancelled; to send it after all: syncd retry",
        FileState.NEEDS_SIGN_IN: "it needs a user session; syncd status says more",
        FileState.IGNORED: "it is passed over by the rules",
        FileState.SHADOWED: "ComfyUI loads another file under its name",
    }
)
"""Why an order leaves a file alone, by its state."""

BUNDLED = "it is stored and waits for another file of its bundle; syncd file names that one"

UNKNOWN = "no such file is known; the path is the one that syncd status shows, or an absolute one"


@dataclass(slots=True)
class ActionResult:
    """
    What became of an order.

    Args:
        files: Those that it was carried out on, as a person is told of them.
        examined: Those without a job, which are examined again.
        left: Those that it left alone, and why.
        look_at: Paths to look at again.
        ended: Jobs that nobody may work at any longer.
    """

    files: list[str] = field(default_factory=list)
    examined: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    look_at: list[PathKey] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)


def pause(store: Store, now_ms: int) -> ActionResult:
    """Let nothing begin until ``resume``, over restarts as well."""
    store.holds.pause(now_ms)
    return ActionResult()


def resume(store: Store, now_ms: int) -> ActionResult:
    """End a pause."""
    store.holds.clear(HoldKind.PAUSED)
    return ActionResult()


def accept(store: Store, now_ms: int) -> ActionResult:
    """Take the watched directories as they are at the next walk, whatever disks they were on before."""
    store.files.accept()
    return ActionResult()


def retry(
    store: Store, now_ms: int, *, paths: Sequence[str] = (), states: Collection[str] = ()
) -> ActionResult:
    """
    Try files again: those named, and all that are in one of *states* (of ``RETRIABLE``).

    Whoever says so may have mended what everything waits for: holds are probed at once.
    """
    done = ActionResult()

    def again(place: Named) -> bool:
        if place.state in AFRESH:
            done.look_at.append(place.key)
            done.examined.append(place.shown)
            return True
        if place.state is FileState.DRIFT:
            store.jobs.send_again(*place.key, now_ms)
        else:
            assert place.job_id is not None, "a wanted file has a job"
            if not store.jobs.retry_now(place.job_id, now_ms):
                return False
        done.files.append(place.shown)
        return True

    with store.transaction():
        _each_named(store, paths, frozenset(RETRIABLE), again, done)
        if states:
            for place in store.report.places():
                if place.state in states:
                    again(place)
        store.files.judge_afresh(done.look_at)
        store.holds.probe_now(now_ms)
    return done


def bump(store: Store, now_ms: int, *, paths: Sequence[str]) -> ActionResult:
    """Let queued files go before all others, in the order of their size."""
    done = ActionResult()

    def first(place: Named) -> bool:
        assert place.job_id is not None, "a queued file has a job"
        store.jobs.bump(place.job_id, now_ms)
        done.files.append(place.shown)
        return True

    with store.transaction():
        _each_named(store, paths, BUMPABLE, first, done)
    return done


def cancel(store: Store, now_ms: int, *, paths: Sequence[str]) -> ActionResult:
    """Give up on files until they change or somebody asks for a retry."""
    done = ActionResult()

    def end(place: Named) -> bool:
        assert place.job_id is not None, "there is something to cancel"
        store.jobs.cancel(place.job_id, now_ms)
        done.ended.append(place.job_id)
        done.files.append(place.shown)
        return True

    with store.transaction():
        _each_named(store, paths, CANCELLABLE, end, done)
    return done


def _each_named(
    store: Store,
    paths: Sequence[str],
    states: Collection[str],
    carry_out: Callable[[Named], bool],
    done: ActionResult,
) -> None:
    """
    Carry an order out on each named file that is in one of *states*; say why not on the others.

    Args:
        carry_out: Returns False if the file waits for another file of its bundle.
    """
    for path in paths:
        places = store.report.places(path)
        fit = [place for place in places if place.state in states]
        for place in fit:
            if not carry_out(place):
                done.left[place.shown] = BUNDLED
        if not places:
            done.left[path] = UNKNOWN
        elif not fit:
            done.left.update({p.shown: WHY_NOT.get(p.state, f"it is {p.state}") for p in places})
