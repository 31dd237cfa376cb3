"""The distance between hashing and sending."""

import asyncio

import pytest

from syncd.core.jobs.parts import plan_parts
from syncd.types import LEAF_DIGEST_SIZE, LEAF_SIZE
from syncd.upload.hash_window import PARTS_AHEAD, HashWindow

PART_SIZE = 2 * LEAF_SIZE
PARTS = plan_parts(40 * PART_SIZE, PART_SIZE)
TURNS = 20


def lead(width: int = 2) -> HashWindow:
    return HashWindow(b"", PARTS, width=lambda: width)


def leaves(parts: int) -> bytes:
    """Return the digests of the first parts."""
    return b"d" * (parts * PART_SIZE // LEAF_SIZE * LEAF_DIGEST_SIZE)


async def waits(task: "asyncio.Task[object]") -> bool:
    for _ in range(TURNS):
        await asyncio.sleep(0)
    return not task.done()


async def test_part_waits_for_its_own_leaves_only() -> None:
    ahead = lead()
    second = asyncio.create_task(ahead.over(PARTS[1]))
    ahead.grow(leaves(1))
    waited = await waits(second)
    ahead.grow(leaves(2))

    assert waited
    assert await second == leaves(2)


@pytest.mark.parametrize("width", [1, 4])
async def test_hashing_stays_bounded_ahead_of_sending(width: int) -> None:
    ahead = lead(width)
    ahead.grow(leaves(width + PARTS_AHEAD - 1))
    await ahead.room()
    ahead.grow(leaves(width + PARTS_AHEAD))
    room = asyncio.create_task(ahead.room())
    waited = await waits(room)
    ahead.acknowledged(PARTS[1])
    still = await waits(room)
    ahead.acknowledged(PARTS[0])

    assert (waited, still) == (True, True)
    await room


async def test_hashing_continues_after_sending_ended() -> None:
    ahead = lead()
    ahead.grow(leaves(2 + PARTS_AHEAD))
    room = asyncio.create_task(ahead.room())
    last = asyncio.create_task(ahead.over(PARTS[-1]))
    waited = await waits(room) and await waits(last)
    ahead.end()

    assert waited
    assert await last is None
    await room
    assert await ahead.over(PARTS[0]) is None


async def test_hashing_may_end_when_all_parts_are_acknowledged() -> None:
    ahead = lead()
    for part in PARTS:
        ahead.acknowledged(part)
    ahead.grow(leaves(39))

    await ahead.room()
