"""Permission to send: who waits goes on as soon as more may send. And waiting for room on the disk."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from structlog.testing import capture_logs

from syncd.clock import Clock
from syncd.core.transfer.concurrency import AdaptiveConcurrency
from syncd.disk_full import DiskFullRetry
from syncd.errors import StateError, StateFull
from syncd.executors import Executors
from syncd.upload.limits import ConcurrencyLimiter
from tests.fakes import FakeClock


class Sender:
    """Takes a slot and keeps it until told."""

    def __init__(self, slots: ConcurrencyLimiter) -> None:
        self.has_slot, self._done = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run(slots))

    async def _run(self, slots: ConcurrencyLimiter) -> None:
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
    slots = ConcurrencyLimiter(AdaptiveConcurrency(1, 1))
    first, second, third = senders = [Sender(slots) for _ in range(3)]
    await turns()
    assert [sender.has_slot.is_set() for sender in senders] == [True, False, False]
    await first.end()
    await turns()

    assert [sender.has_slot.is_set() for sender in senders] == [True, True, False]
    await second.end()
    await third.end()


async def test_who_waits_goes_on_when_more_may_send_though_no_body_ended() -> None:
    slots = ConcurrencyLimiter(AdaptiveConcurrency(1, 2))
    senders = [Sender(slots) for _ in range(3)]
    await turns()
    for second in range(10):
        slots.look(second * 100_000_000, float(second), held_to=None)
        await turns()

    assert [sender.has_slot.is_set() for sender in senders] == [True, True, False]
    for sender in senders:
        await sender.end()


async def test_who_gave_up_waiting_leaves_no_trace() -> None:
    slots = ConcurrencyLimiter(AdaptiveConcurrency(1, 2))
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


class Disk:
    """A store's call on a disk that has no room until it is told so."""

    def __init__(self) -> None:
        self.full = True
        self.tries = 0

    def write(self) -> str:
        self.tries += 1
        if self.full:
            raise StateFull("the disk is full")
        return "written"


@contextmanager
def waiting_for(disk: Disk, clock: Clock, *, limit_s: float | None) -> Iterator[Executors]:
    lanes = Executors(files=1, slots=1)
    lanes.patience = DiskFullRetry(clock, limit_s=limit_s)
    try:
        yield lanes
    finally:
        lanes.close()


async def test_whoever_finds_no_room_is_through_as_soon_as_there_is_some() -> None:
    disk = Disk()

    class Emptied(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            disk.full = len(self.slept) < 6

    clock = Emptied()
    with waiting_for(disk, clock, limit_s=None) as lanes, capture_logs() as said:
        assert await lanes.db(disk.write) == "written"

    assert clock.slept == [1, 1, 2, 4, 8, 16]
    assert [(each["event"], each.get("seconds")) for each in said] == [
        ("hold.started", None),
        ("hold.ended", 32.0),
    ]


async def test_a_limit_passes_once_for_all_and_nothing_is_said_to_have_ended() -> None:
    disk, clock = Disk(), FakeClock()
    with waiting_for(disk, clock, limit_s=60) as lanes, capture_logs() as said:
        for _ in range(3):
            with pytest.raises(StateFull):
                await lanes.db(disk.write)

    assert sum(clock.slept) == 64  # 1, 1, 2, 4, ...: the first to find 60 passed gives up
    assert [each["event"] for each in said] == ["hold.started"]


async def test_nobody_waits_for_room_once_the_last_who_did_was_cancelled() -> None:
    class Standing(FakeClock):
        async def sleep(self, seconds: float) -> None:
            self.slept.append(seconds)
            await asyncio.Event().wait()

    disk, clock = Disk(), Standing()
    with waiting_for(disk, clock, limit_s=None) as lanes:
        assert lanes.patience is not None
        tasks = [asyncio.create_task(lanes.db(disk.write)) for _ in range(2)]
        while len(clock.slept) < len(tasks):
            await asyncio.sleep(0)
        for task in tasks:
            assert lanes.patience.waiting
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        assert not lanes.patience.waiting


async def test_who_would_wait_for_room_while_the_program_stops_fails_at_once() -> None:
    disk, clock = Disk(), FakeClock()
    with waiting_for(disk, clock, limit_s=None) as lanes, capture_logs() as said:
        assert lanes.patience is not None
        lanes.patience.give_up()
        with pytest.raises(StateFull):
            await lanes.db(disk.write)

    assert not clock.slept
    assert not said


async def test_error_of_store_call_whose_caller_was_cancelled_is_not_logged_by_asyncio() -> None:
    lanes, reported = Executors(files=1, slots=1), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    may_end = threading.Event()

    def fail() -> None:
        may_end.wait()
        raise StateError("removed")

    caller = asyncio.create_task(lanes.db(fail))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    may_end.set()
    await lanes.db(int)
    gc.collect()
    lanes.close()

    assert not reported
