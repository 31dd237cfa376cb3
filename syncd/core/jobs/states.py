"""
The states of a job and the transitions between them.

The state is only about who owns the job. The progress is read from the job's facts (``steps``), so a job
that is claimed after a crash resumes with the same code that starts a new one.
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
        Event.REPLACE: State.SUPERSEDED,  # the owner notices at its next write
        Event.CANCEL: State.CANCELLED,  # as for REPLACE
    },
    State.FAILED: {
        Event.REQUEUE: State.QUEUED,  # an operator, or a changed configuration
        Event.REPLACE: State.SUPERSEDED,
        Event.CANCEL: State.CANCELLED,
    },
    State.CANCELLED: {  # by the user: neither a restart nor a changed setting requeues it
        Event.REQUEUE: State.QUEUED,
        Event.REPLACE: State.SUPERSEDED,
    },
    State.DONE: {},
    State.SUPERSEDED: {},
}

LIVE = frozenset({State.QUEUED, State.LEASED})  # a path has at most one job in these states


class IllegalTransition(AssertionError):
    """A bug: the event is not possible in that state."""


def advance(state: State, event: Event) -> State:
    """Return the state after *event*. Raises IllegalTransition."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot happen to a job that is {state}") from None
