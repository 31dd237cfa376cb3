"""Permission to send: who waits goes on as soon as more may send. And waiting for room on the disk."""

import asyncio
from contextlib import suppress

from syncd.clock import SystemClock
from syncd.core.width import Width
from syncd.errors import StateFull
from syncd.lanes import Lanes, Slots
from syncd.patience import Patience


class Sender:
    """Takes a slot and keeps it until told."""

    def __init__(self, slots: Slots) -> None:
        self.has_slot, self._done = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run(slots))

    async def _run(self, slots: Slots) -> None:
        async with slots.one():
            self.has_slot.set()
            await self._done.wait()

    async def end(self) -> None:
        self._done.set()
        await self.task


async def turns() -> None:
    """Whatever is ready runs."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_slot_goes_to_who_waited_longest() -> None:
    slots = Slots(Width(1, 1))
    first, second, third = senders = [Sender(slots) for _ in range(3)]
    await turns()
    assert [sender.has_slot.is_set() for sender in senders] == [True, False, False]
    await first.end()
    await turns()

    assert [sender.has_slot.is_set() for sender in senders] == [True, True, False]
    await second.end()
    await third.end()


async def test_who_waits_goes_on_when_more_may_send_though_no_body_ended() -> None:
    slots = Slots(Width(1, 2))
    senders = [Sender(slots) for _ in range(3)]
    await turns()
    for second in range(10):
        slots.look(second * 100_000_000, float(second), held_to=None)
        await turns()

    assert [sender.has_slot.is_set() for sender in senders] == [True, True, False]
    for sender in senders:
        await sender.end()


async def test_who_gave_up_waiting_leaves_no_trace() -> None:
    slots = Slots(Width(1, 2))
    first, second = Sender(slots), Sender(slots)
    await turns()
    second.task.cancel()
    with suppress(asyncio.CancelledError):
        await second.task
    for at_s in range(10):  # one that waits would make it worth a try
        slots.look(at_s * 100_000_000, float(at_s), held_to=None)
    await first.end()

    assert slots.width.limit == 1
    last = Sender(slots)
    await turns()
    assert last.has_slot.is_set()
    await last.end()


async def test_nobody_waits_for_room_once_the_last_who_did_was_cancelled() -> None:
    lanes = Lanes(files=1, slots=1)
    lanes.patience = patience = Patience(SystemClock(), limit_s=None)
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()

    def full() -> None:
        loop.call_soon_threadsafe(tried.set)
        raise StateFull("the disk is full")

    waiting = asyncio.create_task(lanes.db(full))
    await tried.wait()
    while not patience.waiting:
        await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting

    assert not patience.waiting
    lanes.close()
