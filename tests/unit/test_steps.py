"""What a job needs next, for every set of facts a crash can leave behind."""

from dataclasses import replace

import pytest

from syncd.core.jobs.parts import Route
from syncd.core.jobs.steps import Step, next_step
from syncd.types import Fingerprint, Job, State, Target

NEW = Job(
    id=1,
    root_id=1,
    rel_path="loras/a.safetensors",
    fingerprint=Fingerprint(1, 2, 3, 4, 5),
    target=Target("models/loras/a.safetensors", "loras", "a.safetensors", "a"),
    state=State.LEASED,
    attempt=1,
    run_after=0,
)
PLANNED = replace(NEW, sha256="a" * 64, leaves=b"x" * 16)
RESERVED = replace(PLANNED, storage_key="key")
BODY_SENT = replace(RESERVED, body_sent_at=1)
OPENED = replace(RESERVED, upload_id="up", part_size=5 << 20, part_count=3)
COMPLETE_SENT = replace(OPENED, complete_sent_at=1)
STORED = replace(BODY_SENT, stored_at=2)
STORED_IN_PARTS = replace(COMPLETE_SENT, stored_at=2)
REGISTER_SENT = replace(STORED, register_sent_at=3)
REGISTERED = replace(REGISTER_SENT, record_id="rec")


@pytest.mark.parametrize(
    ("job", "granted", "step"),
    [
        pytest.param(NEW, False, Step.PLAN, id="nothing known"),
        pytest.param(PLANNED, False, Step.PRESIGN, id="killed after hashing"),
        pytest.param(RESERVED, True, Step.PUT, id="url in memory"),
        pytest.param(RESERVED, False, Step.PRESIGN, id="killed after presign: the url is gone"),
        pytest.param(PLANNED, True, Step.PRESIGN, id="a url without a key is not ours"),
        pytest.param(BODY_SENT, True, Step.PUT, id="body sent, answer unclear, url alive"),
        pytest.param(BODY_SENT, False, Step.PRESIGN, id="killed in the body"),
        pytest.param(STORED, False, Step.REGISTER, id="killed before register"),
        pytest.param(STORED, True, Step.REGISTER, id="stored: a live url changes nothing"),
        pytest.param(REGISTER_SENT, False, Step.LOOK_UP, id="killed while registering"),
        pytest.param(REGISTERED, False, Step.FINISH, id="killed before the end was written"),
    ],
)
def test_a_file_of_one_request_goes_on_where_its_facts_end(
    job: Job, granted: bool, step: Step
) -> None:
    assert (
        next_step(
            job,
            route=Route.PUT,
            granted=granted,
            missing=0,
            known=False,
            movable=False,
            not_in_catalog=False,
        )
        is step
    )


@pytest.mark.parametrize(
    ("job", "missing", "step"),
    [
        pytest.param(NEW, 0, Step.PLAN, id="nothing known"),
        pytest.param(PLANNED, 0, Step.PRESIGN, id="killed after hashing"),
        pytest.param(RESERVED, 0, Step.INITIATE, id="key reserved: no second presign"),
        pytest.param(OPENED, 3, Step.PARTS, id="killed after initiate"),
        pytest.param(OPENED, 1, Step.PARTS, id="killed before the last part"),
        pytest.param(OPENED, 0, Step.COMPLETE, id="every etag committed"),
        pytest.param(COMPLETE_SENT, 0, Step.COMPLETE, id="killed while completing"),
        pytest.param(COMPLETE_SENT, 1, Step.PARTS, id="the store disputed a part"),
        pytest.param(STORED_IN_PARTS, 0, Step.REGISTER, id="killed before register"),
        pytest.param(STORED_IN_PARTS, 3, Step.REGISTER, id="stored: parts are history"),
        pytest.param(
            replace(STORED_IN_PARTS, register_sent_at=3), 0, Step.LOOK_UP, id="register sent"
        ),
    ],
)
def test_a_file_in_parts_goes_on_where_its_facts_end(job: Job, missing: int, step: Step) -> None:
    assert (
        next_step(
            job,
            route=Route.MULTIPART,
            granted=False,
            missing=missing,
            known=False,
            movable=False,
            not_in_catalog=False,
        )
        is step
    )


@pytest.mark.parametrize("route", Route)
@pytest.mark.parametrize("job", [PLANNED, RESERVED, BODY_SENT, OPENED, COMPLETE_SENT])
def test_bytes_known_in_the_catalog_are_adopted_before_anything_is_sent(
    job: Job, route: Route
) -> None:
    assert (
        next_step(
            job,
            route=route,
            granted=True,
            missing=2,
            known=True,
            movable=False,
            not_in_catalog=False,
        )
        is Step.ADOPT
    )


@pytest.mark.parametrize("route", Route)
@pytest.mark.parametrize(
    ("job", "step"),
    [
        (NEW, Step.PLAN),
        (STORED, Step.REGISTER),
        (REGISTER_SENT, Step.LOOK_UP),
        (REGISTERED, Step.FINISH),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_what_is_stored_or_sent_is_settled_whatever_the_route_or_the_catalog_say(
    job: Job, route: Route, step: Step, known: bool
) -> None:
    assert (
        next_step(
            job,
            route=route,
            granted=True,
            missing=1,
            known=known,
            movable=False,
            not_in_catalog=False,
        )
        is step
    )


@pytest.mark.parametrize("job", [PLANNED, RESERVED, OPENED])
def test_a_file_too_large_for_the_credential_waits_for_a_person(job: Job) -> None:
    assert (
        next_step(
            job,
            route=Route.NEEDS_SIGN_IN,
            granted=True,
            missing=1,
            known=False,
            movable=False,
            not_in_catalog=False,
        )
        is Step.SIGN_IN
    )


def test_a_register_whose_answer_never_came_is_looked_up_before_anything_else() -> None:
    job = replace(PLANNED, storage_key="key", register_sent_at=1)

    assert (
        next_step(
            job,
            route=Route.PUT,
            granted=True,
            missing=0,
            known=True,
            movable=False,
            not_in_catalog=False,
        )
        is Step.LOOK_UP
    )


def test_a_renamed_file_takes_its_record_with_it_before_anything_is_asked_for() -> None:
    for route in Route:
        step = next_step(
            PLANNED,
            route=route,
            granted=False,
            missing=0,
            known=False,
            movable=True,
            not_in_catalog=False,
        )
        assert step is Step.MOVE


def test_a_record_that_is_there_already_is_adopted_rather_than_another_moved() -> None:
    step = next_step(
        PLANNED,
        route=Route.PUT,
        granted=False,
        missing=0,
        known=True,
        movable=True,
        not_in_catalog=False,
    )
    assert step is Step.ADOPT


BESIDE = replace(NEW, storage_key="key")
OPENED_BESIDE = replace(BESIDE, upload_id="up", part_size=5 << 20, part_count=3)


@pytest.mark.parametrize(
    ("job", "missing", "step"),
    [
        pytest.param(NEW, 0, Step.PRESIGN, id="nothing known"),
        pytest.param(BESIDE, 0, Step.INITIATE, id="key reserved"),
        pytest.param(OPENED_BESIDE, 3, Step.PARTS, id="killed after initiate"),
        pytest.param(OPENED_BESIDE, 1, Step.PARTS, id="killed before the last part"),
        pytest.param(OPENED_BESIDE, 0, Step.PLAN, id="every etag committed, the file not read"),
        pytest.param(OPENED, 0, Step.COMPLETE, id="every etag committed, the file read"),
    ],
)
def test_parts_of_a_file_that_nobody_has_leave_before_its_hash_is_known(
    job: Job, missing: int, step: Step
) -> None:
    assert (
        next_step(
            job,
            route=Route.MULTIPART,
            granted=False,
            missing=missing,
            known=False,
            movable=False,
            not_in_catalog=True,
        )
        is step
    )


@pytest.mark.parametrize("route", [Route.PUT, Route.NEEDS_SIGN_IN])
def test_a_file_that_does_not_go_in_parts_is_read_first(route: Route) -> None:
    assert (
        next_step(
            NEW,
            route=route,
            granted=False,
            missing=0,
            known=False,
            movable=False,
            not_in_catalog=True,
        )
        is Step.PLAN
    )
