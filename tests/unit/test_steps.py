"""The next step of a job for every set of facts that a crash can leave behind."""

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
HASHED = replace(NEW, sha256="a" * 64, leaves=b"x" * 16)
RESERVED = replace(HASHED, storage_key="key")
BODY_SENT = replace(RESERVED, body_sent_at=1)
OPENED = replace(RESERVED, upload_id="up", part_size=5 << 20, part_count=3)
COMPLETE_SENT = replace(OPENED, complete_sent_at=1)
STORED = replace(BODY_SENT, stored_at=2)
STORED_IN_PARTS = replace(COMPLETE_SENT, stored_at=2)
REGISTER_SENT = replace(STORED, register_sent_at=3)
REGISTERED = replace(REGISTER_SENT, record_id="rec")


def step_of(
    job: Job,
    route: Route = Route.PUT,
    *,
    granted: bool = False,
    missing: int = 0,
    known: bool = False,
    movable: bool = False,
    not_in_catalog: bool = False,
) -> Step:
    return next_step(
        job,
        route=route,
        granted=granted,
        missing=missing,
        known=known,
        movable=movable,
        not_in_catalog=not_in_catalog,
    )


@pytest.mark.parametrize(
    ("job", "granted", "step"),
    [
        pytest.param(NEW, False, Step.HASH, id="nothing known"),
        pytest.param(HASHED, False, Step.PRESIGN, id="killed after hashing"),
        pytest.param(RESERVED, True, Step.PUT, id="url in memory"),
        pytest.param(RESERVED, False, Step.PRESIGN, id="killed after presign"),
        pytest.param(HASHED, True, Step.PRESIGN, id="url without a key"),
        pytest.param(BODY_SENT, True, Step.PUT, id="body sent, result unknown, url valid"),
        pytest.param(BODY_SENT, False, Step.PRESIGN, id="killed while sending the body"),
        pytest.param(STORED, False, Step.REGISTER, id="killed before register"),
        pytest.param(STORED, True, Step.REGISTER, id="stored, url valid"),
        pytest.param(REGISTER_SENT, False, Step.LOOK_UP, id="killed while registering"),
        pytest.param(REGISTERED, False, Step.FINISH, id="killed before the end was committed"),
    ],
)
def test_single_put_resumes_from_its_facts(job: Job, granted: bool, step: Step) -> None:
    assert step_of(job, granted=granted) is step


@pytest.mark.parametrize(
    ("job", "missing", "step"),
    [
        pytest.param(NEW, 0, Step.HASH, id="nothing known"),
        pytest.param(HASHED, 0, Step.PRESIGN, id="killed after hashing"),
        pytest.param(RESERVED, 0, Step.INITIATE, id="key reserved"),
        pytest.param(OPENED, 3, Step.PARTS, id="killed after initiate"),
        pytest.param(OPENED, 1, Step.PARTS, id="killed before the last part"),
        pytest.param(OPENED, 0, Step.COMPLETE, id="every etag committed"),
        pytest.param(COMPLETE_SENT, 0, Step.COMPLETE, id="killed while completing"),
        pytest.param(COMPLETE_SENT, 1, Step.PARTS, id="the store refused a part"),
        pytest.param(STORED_IN_PARTS, 0, Step.REGISTER, id="killed before register"),
        pytest.param(STORED_IN_PARTS, 3, Step.REGISTER, id="stored, parts ignored"),
        pytest.param(
            replace(STORED_IN_PARTS, register_sent_at=3), 0, Step.LOOK_UP, id="register sent"
        ),
    ],
)
def test_multipart_upload_resumes_from_its_facts(job: Job, missing: int, step: Step) -> None:
    assert step_of(job, Route.MULTIPART, missing=missing) is step


@pytest.mark.parametrize("route", Route)
@pytest.mark.parametrize("job", [HASHED, RESERVED, BODY_SENT, OPENED, COMPLETE_SENT])
def test_content_in_catalog_is_adopted_before_anything_is_sent(job: Job, route: Route) -> None:
    assert step_of(job, route, granted=True, missing=2, known=True, movable=True) is Step.ADOPT


@pytest.mark.parametrize("route", Route)
@pytest.mark.parametrize(
    ("job", "step"),
    [
        (NEW, Step.HASH),
        (STORED, Step.REGISTER),
        (REGISTER_SENT, Step.LOOK_UP),
        (replace(HASHED, storage_key="key", register_sent_at=1), Step.LOOK_UP),
        (REGISTERED, Step.FINISH),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_step_of_stored_content_depends_on_neither_route_nor_catalog(
    job: Job, route: Route, step: Step, known: bool
) -> None:
    assert step_of(job, route, granted=True, missing=1, known=known) is step


@pytest.mark.parametrize("job", [HASHED, RESERVED, OPENED])
def test_file_too_large_for_credential_waits_for_sign_in(job: Job) -> None:
    assert step_of(job, Route.NEEDS_SIGN_IN, granted=True, missing=1) is Step.SIGN_IN


@pytest.mark.parametrize("route", Route)
def test_renamed_file_moves_its_record(route: Route) -> None:
    assert step_of(HASHED, route, movable=True) is Step.MOVE


@pytest.mark.parametrize("route", [Route.PUT, Route.NEEDS_SIGN_IN])
def test_file_without_parts_is_hashed_first(route: Route) -> None:
    assert step_of(NEW, route, not_in_catalog=True) is Step.HASH
