"""The route of a file and its parts."""

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


@pytest.mark.parametrize(
    ("size", "limit", "session", "multipart", "route"),
    [
        (1, LIMIT, False, False, Route.PUT),
        (LIMIT, LIMIT, True, True, Route.PUT),
        (LIMIT + 1, LIMIT, True, True, Route.MULTIPART),
        (LIMIT + 1, LIMIT, True, False, Route.NEEDS_SIGN_IN),
        (LIMIT + 1, LIMIT, False, True, Route.NEEDS_SIGN_IN),
        (STORE_PUT_CEILING, 100 * STORE_PUT_CEILING, True, True, Route.PUT),
        (STORE_PUT_CEILING + 1, 100 * STORE_PUT_CEILING, True, True, Route.MULTIPART),
    ],
)
def test_route_depends_on_size_credential_and_server(
    size: int, limit: int, session: bool, multipart: bool, route: Route
) -> None:
    found = choose_route(size, single_put_limit=limit, session=session, multipart=multipart)

    assert found is route


@given(part_size=st.integers(1, 10**9), data=st.data())
def test_I04_parts_cover_the_file_once(part_size: int, data: st.DataObject) -> None:
    file_size = data.draw(st.integers(1, part_size * 300))

    parts = plan_parts(file_size, part_size)

    ends = [part.offset + part.size for part in parts]
    assert [part.offset for part in parts] == [0, *ends[:-1]]
    assert ends[-1] == file_size
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert {part.size for part in parts[:-1]} <= {part_size}
    assert 0 < parts[-1].size <= part_size


def test_more_than_ten_thousand_parts_are_refused_with_advice() -> None:
    assert len(plan_parts(7 * MAX_PARTS, 7)) == MAX_PARTS == 10_000

    with pytest.raises(Permanent, match="more than 10000 parts") as caught:
        plan_parts(7 * MAX_PARTS + 1, 7)

    assert caught.value.kind is Kind.INVALID_ANSWER
    assert caught.value.advice


def test_missing_parts_are_those_not_done_in_order() -> None:
    parts = plan_parts(23, 5)

    assert [p.number for p in missing_parts(parts, {4: "e", 1: "e", 9: "e"})] == [2, 3, 5]
    assert missing_parts(parts, range(1, 6)) == []
    assert missing_parts(parts, ()) == parts


def test_leaf_slice_covers_every_leaf_that_part_overlaps() -> None:
    half = LEAF_SIZE // 2

    assert leaves_of(Part(1, 0, LEAF_SIZE)) == slice(0, 16)
    assert leaves_of(Part(2, LEAF_SIZE, 1)) == slice(16, 32)
    assert leaves_of(Part(2, half, LEAF_SIZE)) == slice(0, 32)
