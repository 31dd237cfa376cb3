"""Routes by size, parts by number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.jobs.parts import (
    MAX_PARTS,
    STORE_PUT_CEILING,
    Route,
    choose_route,
    leaves_of,
    missing_parts,
    plan_parts,
)
from syncd.errors import Permanent
from syncd.types import LEAF_SIZE, Kind, Part

LIMIT = 500_000_000


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("multipart", [False, True])
@pytest.mark.parametrize("size", [1, LIMIT])
def test_a_file_up_to_the_limit_goes_in_one_request_with_any_credential(
    size: int, session: bool, multipart: bool
) -> None:
    route = choose_route(size, single_put_limit=LIMIT, session=session, multipart=multipart)

    assert route is Route.PUT


@pytest.mark.parametrize(
    ("session", "multipart", "route"),
    [
        (True, True, Route.MULTIPART),
        (True, False, Route.NEEDS_SIGN_IN),
        (False, True, Route.NEEDS_SIGN_IN),
        (False, False, Route.NEEDS_SIGN_IN),
    ],
)
def test_one_byte_more_needs_a_session_and_a_server_that_takes_parts(
    session: bool, multipart: bool, route: Route
) -> None:
    assert (
        choose_route(LIMIT + 1, single_put_limit=LIMIT, session=session, multipart=multipart)
        is route
    )


@pytest.mark.parametrize(
    ("size", "route"),
    [(STORE_PUT_CEILING, Route.PUT), (STORE_PUT_CEILING + 1, Route.MULTIPART)],
)
def test_no_configured_limit_lifts_what_a_store_takes_in_one_put(size: int, route: Route) -> None:
    limit = 100 * STORE_PUT_CEILING

    assert choose_route(size, single_put_limit=limit, session=True, multipart=True) is route


@pytest.mark.parametrize(
    ("file_size", "part_size", "parts"),
    [
        (1, 5, [Part(1, 0, 1)]),
        (5, 5, [Part(1, 0, 5)]),
        (6, 5, [Part(1, 0, 5), Part(2, 5, 1)]),
        (10, 5, [Part(1, 0, 5), Part(2, 5, 5)]),
    ],
)
def test_parts_count_from_one_and_only_the_last_is_shorter(
    file_size: int, part_size: int, parts: list[Part]
) -> None:
    assert plan_parts(file_size, part_size) == parts


@given(part_size=st.integers(1, 10**9), data=st.data())
def test_I04_parts_tile_the_file_once(part_size: int, data: st.DataObject) -> None:
    file_size = data.draw(st.integers(1, part_size * 300))

    parts = plan_parts(file_size, part_size)

    ends = [part.offset + part.size for part in parts]
    assert [part.offset for part in parts] == [0, *ends[:-1]]
    assert ends[-1] == file_size
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert {part.size for part in parts[:-1]} <= {part_size}
    assert 0 < parts[-1].size <= part_size


def test_ten_thousand_parts_are_planned_and_one_more_is_refused_with_advice() -> None:
    assert len(plan_parts(7 * MAX_PARTS, 7)) == MAX_PARTS == 10_000

    with pytest.raises(Permanent, match="more than 10000 parts") as caught:
        plan_parts(7 * MAX_PARTS + 1, 7)

    assert caught.value.kind is Kind.INVALID_ANSWER
    assert caught.value.advice


@pytest.mark.parametrize(("file_size", "part_size"), [(0, 5), (5, 0)])
def test_an_empty_file_or_part_is_our_own_bug(file_size: int, part_size: int) -> None:
    with pytest.raises(AssertionError):
        plan_parts(file_size, part_size)


def test_missing_parts_are_those_without_a_number_among_the_done_in_order() -> None:
    parts = plan_parts(23, 5)

    assert [p.number for p in missing_parts(parts, {4: "e", 1: "e", 9: "e"})] == [2, 3, 5]
    assert missing_parts(parts, range(1, 6)) == []
    assert missing_parts(parts, ()) == parts


def test_digests_of_a_part_are_those_of_the_leaves_that_it_touches() -> None:
    half = LEAF_SIZE // 2

    assert leaves_of(Part(1, 0, LEAF_SIZE)) == slice(0, 16)
    assert leaves_of(Part(2, LEAF_SIZE, 1)) == slice(16, 32)
    assert leaves_of(Part(2, half, LEAF_SIZE)) == slice(0, 32)
