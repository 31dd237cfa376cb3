"""Properties of routes, steps and exit codes."""

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from syncd.core.exit_codes import NEEDS_PERSON, NOT_UPLOADED, UNFINISHED, Exit, exit_code
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


_BESIDE = {Step.PRESIGN, Step.INITIATE, Step.PARTS}


def done(job: Job, step: Step) -> Job:
    """Return the facts after a successful step."""
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
def test_job_finishes_from_any_facts_without_repeating_a_step(
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
    assert len(set(taken)) == len(taken)


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


STATES = sorted(NEEDS_PERSON | NOT_UPLOADED | UNFINISHED | {"registered", "ignored", "shadowed"})
counts = st.dictionaries(st.sampled_from(STATES), st.integers(0, 2))
hold_kinds = st.sets(st.sampled_from(["offline", "throttled", "operator"]))


def pressing(code: Exit, *, unfinished: bool) -> int:
    """The rank of a code: work that the next run can finish ranks above files that need mending."""
    ranks = [Exit.DONE, Exit.LATER, Exit.SOME_FAILED, None, Exit.PERSON, Exit.ROOT]
    return 3 if code is Exit.LATER and unfinished else ranks.index(code)


@given(counts, counts, hold_kinds, hold_kinds, st.tuples(*[st.integers(0, 1)] * 4), st.booleans())
def test_exit_code_never_improves_if_more_is_left(
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
