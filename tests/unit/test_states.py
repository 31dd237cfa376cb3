"""Transitions between the states of a job."""

import pytest

from syncd.core.jobs.states import LIVE, TRANSITIONS, IllegalTransition, advance
from syncd.types import Event, State

PAIRS = [(state, event) for state in State for event in Event]


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_event_moves_job_along_its_arrow_or_is_refused(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert advance(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransition, match=f"{event} cannot happen .* {state}"):
            advance(state, event)


def test_only_done_and_superseded_are_final() -> None:
    assert [state for state in State if not TRANSITIONS[state]] == [State.DONE, State.SUPERSEDED]


def test_live_jobs_are_those_that_a_worker_has_or_may_claim() -> None:
    claimable = {state for state, row in TRANSITIONS.items() if Event.CLAIM in row}
    claimed = {state for state, row in TRANSITIONS.items() if Event.FINISH in row}

    assert claimable | claimed == LIVE
