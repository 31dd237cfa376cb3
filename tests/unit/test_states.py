"""The transition table: every arrow there is, and no other."""

import pytest

from syncd.core.jobs.states import LIVE, TRANSITIONS, IllegalTransition, advance
from syncd.types import Event, State

# Written down a second time on purpose: whoever changes an arrow says so twice.
ARROWS = {
    (State.QUEUED, Event.CLAIM): State.LEASED,
    (State.QUEUED, Event.REPLACE): State.SUPERSEDED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.LEASED, Event.FINISH): State.DONE,
    (State.LEASED, Event.RETRY): State.QUEUED,
    (State.LEASED, Event.RELEASE): State.QUEUED,
    (State.LEASED, Event.EXPIRE): State.QUEUED,
    (State.LEASED, Event.REJECT): State.FAILED,
    (State.LEASED, Event.REPLACE): State.SUPERSEDED,
    (State.LEASED, Event.CANCEL): State.CANCELLED,
    (State.FAILED, Event.REQUEUE): State.QUEUED,
    (State.FAILED, Event.REPLACE): State.SUPERSEDED,
    (State.FAILED, Event.CANCEL): State.CANCELLED,
    (State.CANCELLED, Event.REQUEUE): State.QUEUED,
    (State.CANCELLED, Event.REPLACE): State.SUPERSEDED,
}
OTHERS = [(s, e) for s in State for e in Event if (s, e) not in ARROWS]


@pytest.mark.parametrize(("state", "event"), ARROWS)
def test_an_event_leads_where_its_arrow_points(state: State, event: Event) -> None:
    assert advance(state, event) is ARROWS[state, event]


@pytest.mark.parametrize(("state", "event"), OTHERS)
def test_an_event_without_an_arrow_is_refused_by_name(state: State, event: Event) -> None:
    with pytest.raises(IllegalTransition, match=f"{event} cannot happen .* {state}"):
        advance(state, event)


def test_the_table_names_every_state_and_holds_no_arrow_unknown_here() -> None:
    held = {(s, e): after for s, row in TRANSITIONS.items() for e, after in row.items()}

    assert set(TRANSITIONS) == set(State)
    assert held == ARROWS


def test_nothing_leaves_done_or_superseded() -> None:
    ends = [state for state in State if not TRANSITIONS[state]]

    assert ends == [State.DONE, State.SUPERSEDED]


def test_a_live_job_is_one_that_a_worker_has_or_may_take() -> None:
    assert {State.QUEUED, State.LEASED} == LIVE
    assert all(Event.CLAIM in TRANSITIONS[s] or Event.FINISH in TRANSITIONS[s] for s in LIVE)
