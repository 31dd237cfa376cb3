"""
Who owns a job, and what may happen to it next.

Only ownership is a state. How far the work got is read from the job's facts (``syncd.core.jobs.steps``),
so a job that is claimed after a crash goes on where the facts say, by the same code as a new one.
"""

from collections.abc import Mapping

from syncd.types import Event, State

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.QUEUED: {
        Event.CLAIM: State.LEASED,
        Event.REPLACE: State.SUPERSEDED,
        Event.CANCEL: State.CANCELLED,
    },
    State.LEASED: {
        Event.FINISH: State.DONE,
        Event.RETRY: State.QUEUED,  # run_after moves, the attempt is spent
        Event.RELEASE: State.QUEUED,  # shutdown or hold: the attempt is given back
        Event.EXPIRE: State.QUEUED,  # the owner died: the attempt stays spent
        Event.REJECT: State.FAILED,
        Event.REPLACE: State.SUPERSEDED,  # the owner learns it at its next write
        Event.CANCEL: State.CANCELLED,  # and this, too
    },
    State.FAILED: {
        Event.REQUEUE: State.QUEUED,  # an operator, or a changed configuration
        Event.REPLACE: State.SUPERSEDED,
        Event.CANCEL: State.CANCELLED,
    },
    State.CANCELLED: {  # a person does not want it: no start and no changed setting brings it back
        Event.REQUEUE: State.QUEUED,
        Event.REPLACE: State.SUPERSEDED,
    },
    State.DONE: {},
    State.SUPERSEDED: {},
}

LIVE = frozenset({State.QUEUED, State.LEASED})
"""States of which a path has at most one job."""


class IllegalTransition(AssertionError):
    """A bug of ours: the event cannot happen to a job in that state."""


def advance(state: State, event: Event) -> State:
    """
    The state after *event*.

    Raises:
        IllegalTransition: The table has no such arrow; nothing may be changed.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot happen to a job that is {state}") from None
