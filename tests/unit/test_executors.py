"""Slots for sending, and store calls on a full disk."""

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
    """A task that takes a slot and keeps it until ``end``."""

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
    """Let all ready tasks run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_slot_goes_to_longest_waiter() -> None:
    slots = ConcurrencyLimiter(AdaptiveConcurrency(1, 1))
    first, second, third = senders = [Sender(slots) for _ in range(3)]
    await turns()
    assert [sender.has_slot.is_set() for sender in senders] == [True, False, False]
    await first.end()
    await turns()

    assert [sender.has_slot.is_set() for sender in senders] == [True, True, False]
    await second.end()
    await third.end()


async def test_raised_limit_admits_waiter_before_any_body_ends() -> None:
    slots = ConcurrencyLimiter(AdaptiveConcurrency(1, 2))
    senders = [Sender(slots) for _ in range(3)]
    await turns()
    for second in range(10):
        slots.look(second * 100_000_000, float(second), held_to=None)
        await turns()

    assert [sender.has_slot.is_set() for sender in senders] == [True, True, False]
    for sender in senders:
        await sender.end()


async def test_cancelled_waiter_is_not_counted_as_demand() -> None:
    slots = ConcurrencyLimiter(AdaptiveConcurrency(1, 2))
    first, second = Sender(slots), Sender(slots)
    await turns()
    second.task.cancel()
    with suppress(asyncio.CancelledError):
        await second.task
    for at_s in range(10):  # with a waiter the limit would rise
        slots.look(at_s * 100_000_000, float(at_s), held_to=None)
    await first.end()

    assert slots.width.limit == 1
    last = Sender(slots)
    await turns()
    assert last.has_slot.is_set()
    await last.end()


class Disk:
    """A store call that fails while the disk is full."""

    def __init__(self) -> None:
        self.full = True

    def write(self) -> str:
        if self.full:
            raise StateFull("the disk is full")
        return "written"


class FrozenClock(FakeClock):
    """A clock whose sleeps never end."""

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.Event().wait()


@contextmanager
def retrying(clock: Clock, *, limit_s: float | None) -> Iterator[tuple[Executors, DiskFullRetry]]:
    disk_full = DiskFullRetry(clock, limit_s=limit_s)
    executors = Executors(files=1, slots=1, disk_full=disk_full)
    try:
        yield executors, disk_full
    finally:
        executors.close()


async def test_store_call_on_full_disk_succeeds_once_there_is_space() -> None:
    disk = Disk()

    class Emptied(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            disk.full = len(self.slept) < 6

    clock = Emptied()
    with retrying(clock, limit_s=None) as (executors, _), capture_logs() as logged:
        assert await executors.db(disk.write) == "written"

    assert clock.slept == [1, 1, 2, 4, 8, 16]
    assert [(event["event"], event.get("seconds")) for event in logged] == [
        ("hold.started", None),
        ("hold.ended", 32.0),
    ]


async def test_time_limit_on_full_disk_applies_once_to_all_calls() -> None:
    disk, clock = Disk(), FakeClock()
    with retrying(clock, limit_s=60) as (executors, _), capture_logs() as logged:
        for _ in range(3):
            with pytest.raises(StateFull):
                await executors.db(disk.write)

    assert sum(clock.slept) == 64  # 1, 1, 2, 4, ...: the first wait that ends after 60 s gives up
    assert [event["event"] for event in logged] == ["hold.started"]


async def test_disk_full_hold_ends_when_last_waiting_call_is_cancelled() -> None:
    disk, clock = Disk(), FrozenClock()
    with retrying(clock, limit_s=None) as (executors, disk_full):
        tasks = [asyncio.create_task(executors.db(disk.write)) for _ in range(2)]
        while len(clock.slept) < len(tasks):
            await asyncio.sleep(0)
        for task in tasks:
            assert disk_full.waiting
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        assert not disk_full.waiting


async def test_store_call_on_full_disk_fails_at_once_while_program_stops() -> None:
    disk, clock = Disk(), FakeClock()
    with retrying(clock, limit_s=None) as (executors, disk_full), capture_logs() as logged:
        disk_full.give_up()
        with pytest.raises(StateFull):
            await executors.db(disk.write)

    assert not clock.slept
    assert not logged


async def test_error_of_store_call_whose_caller_was_cancelled_is_not_logged_by_asyncio() -> None:
    executors, reported = Executors(files=1, slots=1), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    may_end = threading.Event()

    def fail() -> None:
        may_end.wait()
        raise StateError("removed")

    caller = asyncio.create_task(executors.db(fail))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    may_end.set()
    await executors.db(int)
    gc.collect()
    executors.close()

    assert not reported
