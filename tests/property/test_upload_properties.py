"""Parts, routes, steps and exit codes: what holds for every size, every fact and every end."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syncd.core.exit_codes import NEEDS_PERSON, NOT_UPLOADED, UNFINISHED, Exit, exit_code
from syncd.core.jobs.parts import (
    MAX_PARTS,
    STORE_PUT_CEILING,
    Route,
    choose_route,
    missing_parts,
    plan_parts,
)
from syncd.core.jobs.states import LIVE, TRANSITIONS, IllegalTransition, advance
from syncd.core.jobs.steps import Step, next_step
from syncd.errors import Permanent
from syncd.types import Event, Fingerprint, Job, State, Target

GIB = 1024**3
sizes = st.integers(1, 2000 * GIB)


@given(st.integers(1, 5000), st.integers(1, 200), st.sets(st.integers(1, 60)))
def test_parts_tile_the_file_and_those_missing_are_the_others(
    size: int, part_size: int, done: set[int]
) -> None:
    parts = plan_parts(size, part_size)

    assert [part.number for part in parts] == [*range(1, len(parts) + 1)]
    assert parts[0].offset == 0
    assert all(a.offset + a.size == b.offset for a, b in itertools.pairwise(parts))
    assert parts[-1].offset + parts[-1].size == size
    assert {part.size for part in parts[:-1]} <= {part_size}
    assert 0 < parts[-1].size <= part_size
    missing = missing_parts(parts, done)
    assert missing == [part for part in parts if part.number not in done]


@given(sizes, st.integers(5 * 1024**2, 5 * GIB))
def test_a_plan_has_at_most_10_000_parts_or_is_refused(size: int, part_size: int) -> None:
    if -(-size // part_size) > MAX_PARTS:
        with pytest.raises(Permanent):
            plan_parts(size, part_size)
    elif size // part_size < 300:  # long lists are slow
        assert len(plan_parts(size, part_size)) == -(-size // part_size)


@given(sizes, sizes, st.integers(0, 10 * GIB), st.booleans(), st.booleans())
def test_no_larger_file_takes_the_shorter_way_and_a_sign_in_only_helps(
    one: int, other: int, limit: int, session: bool, multipart: bool
) -> None:
    def route(size: int, *, session: bool = session) -> Route:
        return choose_route(size, single_put_limit=limit, session=session, multipart=multipart)

    small, large = sorted((one, other))
    assert route(large) is not Route.PUT or route(small) is Route.PUT
    assert route(large) is not Route.PUT or large <= STORE_PUT_CEILING
    assert route(one, session=True) is not Route.NEEDS_SIGN_IN or not multipart
    assert route(one, session=False) is not Route.MULTIPART


# --- steps

TARGET = Target("models/loras/a.pt", "loras", "a.pt", "a")
BARE = Job(1, 1, "loras/a.pt", Fingerprint(1, 2, 30, 4, 5), TARGET, State.LEASED, 1, 0)
PARTS = 3
at = st.none() | st.just(7)
jobs = st.builds(
    replace,
    st.just(BARE),
    sha256=st.none() | st.just("0" * 64),
    storage_key=st.none() | st.just("k"),
    upload_id=st.none() | st.just("u"),
    body_sent_at=at,
    complete_sent_at=at,
    stored_at=at,
    register_sent_at=at,
    record_id=st.none() | st.just("r"),
)


_BESIDE = {Step.PRESIGN, Step.INITIATE, Step.PARTS}


def done(job: Job, step: Step) -> Job:
    """The facts after a step that went well."""
    facts = {
        Step.PLAN: {"sha256": "0" * 64},
        Step.ADOPT: {"record_id": "r"},
        Step.PRESIGN: {"storage_key": "k"},
        Step.PUT: {"body_sent_at": 7, "stored_at": 7},
        Step.INITIATE: {"upload_id": "u"},
        Step.PARTS: {},
        Step.COMPLETE: {"complete_sent_at": 7, "stored_at": 7},
        Step.LOOK_UP: {"record_id": "r"},
        Step.REGISTER: {"register_sent_at": 7, "record_id": "r"},
    }
    return replace(job, **facts[step])  # type: ignore[arg-type]


@given(
    jobs,
    st.sampled_from([Route.PUT, Route.MULTIPART]),
    st.booleans(),
    st.integers(0, PARTS),
    st.booleans(),
)
def test_from_any_facts_a_server_that_answers_brings_a_job_to_its_end(
    job: Job, route: Route, granted: bool, missing: int, not_in_catalog: bool
) -> None:
    taken = []
    for _ in range(8):
        step = next_step(
            job,
            route=route,
            granted=granted,
            missing=missing,
            known=False,
            movable=False,
            not_in_catalog=not_in_catalog,
        )
        taken.append(step)
        if step is Step.FINISH:
            break
        granted = granted or step is Step.PRESIGN
        missing = PARTS if step is Step.INITIATE else 0 if step is Step.PARTS else missing
        job = done(job, step)

    assert taken[-1] is Step.FINISH
    assert len(set(taken)) == len(taken)  # nothing is done twice


@given(
    jobs,
    st.sampled_from(Route),
    st.booleans(),
    st.integers(0, PARTS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_no_step_forgets_what_was_sent_or_runs_ahead_of_what_is_known(
    job: Job,
    route: Route,
    granted: bool,
    missing: int,
    known: bool,
    movable: bool,
    not_in_catalog: bool,
) -> None:
    # Before its hash is known nothing of a file was completed or registered.
    assume(job.sha256 is not None or job.stored_at is job.register_sent_at is None)
    known, movable = (told and job.sha256 is not None for told in (known, movable))
    step = next_step(
        job,
        route=route,
        granted=granted,
        missing=missing,
        known=known,
        movable=movable,
        not_in_catalog=not_in_catalog,
    )

    assert (step is Step.FINISH) == (job.record_id is not None)
    if step is not Step.FINISH and job.sha256 is None:
        beside = not_in_catalog and route is Route.MULTIPART
        assert step is Step.PLAN or (beside and step in _BESIDE)
    if step is Step.PLAN:
        assert job.sha256 is None
    if step is Step.REGISTER:
        assert job.stored_at is not None
        assert job.register_sent_at is None
    if step in (Step.PUT, Step.PARTS, Step.COMPLETE, Step.INITIATE, Step.PRESIGN):
        assert job.stored_at is job.register_sent_at is None
        assert not known
        assert not movable
    if step is Step.COMPLETE:
        assert missing == 0
    if step in (Step.PUT, Step.INITIATE, Step.PARTS, Step.COMPLETE):
        assert job.storage_key is not None


# --- the machine, the end


@given(st.sampled_from(State), st.lists(st.sampled_from(Event), max_size=12))
def test_any_row_of_events_moves_a_job_along_arrows_only_and_never_out_of_an_end(
    state: State, story: list[Event]
) -> None:
    for event in story:
        ended = state in (State.DONE, State.SUPERSEDED)
        try:
            after = advance(state, event)
        except IllegalTransition:
            assert event not in TRANSITIONS[state]
            continue
        assert not ended
        assert after in LIVE or state in LIVE or after in (State.SUPERSEDED, State.CANCELLED)
        assert (after is State.LEASED) == (event is Event.CLAIM)
        state = after


STATES = sorted(NEEDS_PERSON | NOT_UPLOADED | UNFINISHED | {"registered", "ignored", "shadowed"})
counts = st.dictionaries(st.sampled_from(STATES), st.integers(0, 2))
hold_kinds = st.sets(st.sampled_from(["offline", "throttled", "operator"]))


def pressing(code: Exit, *, unfinished: bool) -> int:
    """The rank of a code: work that the next run can finish ranks above files that need mending."""
    ranks = [Exit.DONE, Exit.LATER, Exit.SOME_FAILED, None, Exit.PERSON, Exit.ROOT]
    return 3 if code is Exit.LATER and unfinished else ranks.index(code)


@given(counts, counts, hold_kinds, hold_kinds, st.tuples(*[st.integers(0, 1)] * 4), st.booleans())
def test_more_left_behind_is_never_less_pressing(
    files: dict[str, int],
    more: dict[str, int],
    holds: set[str],
    more_holds: set[str],
    few: tuple[int, int, int, int],
    missing: bool,
) -> None:
    together = {s: files.get(s, 0) + more.get(s, 0) for s in files.keys() | more.keys()}
    before = exit_code(files, holds=holds, unsettled=few[0], root_missing=missing, unread=few[1])
    after = exit_code(
        together,
        holds=holds | more_holds,
        unsettled=few[0] + few[2],
        root_missing=missing,
        unread=few[1] + few[3],
    )

    def unfinished(counted: dict[str, int]) -> bool:
        return any(counted.get(state) for state in UNFINISHED)

    assert pressing(before, unfinished=unfinished(files)) <= pressing(
        after, unfinished=unfinished(together)
    )
    nothing_left = "operator" not in holds and not any(few[:2]) and not missing
    assert (before is Exit.DONE) == (
        nothing_left
        and not any(n for s, n in files.items() if s in NEEDS_PERSON | NOT_UPLOADED | UNFINISHED)
    )
