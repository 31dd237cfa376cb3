"""Properties of routes and steps."""

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from syncd.core.jobs.parts import (
    STORE_PUT_CEILING,
    Route,
    choose_route,
)
from syncd.core.jobs.steps import Step, next_step
from syncd.types import Fingerprint, Job, State, Target

GIB = 1024**3
sizes = st.integers(1, 2000 * GIB)


@given(sizes, sizes, st.integers(0, 10 * GIB), st.booleans(), st.booleans())
def test_route_is_monotonic_in_size_and_credential(
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


_WHILE_HASHING = {Step.PRESIGN, Step.INITIATE, Step.PARTS}


def done(job: Job, step: Step) -> Job:
    """Return the facts after a successful step."""
    facts = {
        Step.HASH: {"sha256": "0" * 64},
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
def test_job_finishes_from_any_facts_without_repeating_a_step(
    job: Job, route: Route, granted: bool, missing: int, not_in_catalog: bool
) -> None:
    steps = []
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
        steps.append(step)
        if step is Step.FINISH:
            break
        granted = granted or step is Step.PRESIGN
        missing = PARTS if step is Step.INITIATE else 0 if step is Step.PARTS else missing
        job = done(job, step)

    assert steps[-1] is Step.FINISH
    assert len(set(steps)) == len(steps)


@given(
    jobs,
    st.sampled_from(Route),
    st.booleans(),
    st.integers(0, PARTS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_step_respects_what_was_sent_and_what_is_known(
    job: Job,
    route: Route,
    granted: bool,
    missing: int,
    known: bool,
    movable: bool,
    not_in_catalog: bool,
) -> None:
    # A file is completed and registered only after it is hashed.
    assume(job.sha256 is not None or job.stored_at is job.register_sent_at is None)
    known, movable = (flag and job.sha256 is not None for flag in (known, movable))
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
        while_hashing = not_in_catalog and route is Route.MULTIPART
        assert step is Step.HASH or (while_hashing and step in _WHILE_HASHING)
    if step is Step.HASH:
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
