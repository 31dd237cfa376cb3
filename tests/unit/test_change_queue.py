"""Pending hints from any thread."""

import asyncio
import threading

from syncd.clock import SystemClock
from syncd.ingest.loop import ChangeQueue
from syncd.types import Hint, HintKind

HEARD = [Hint(1, f"loras/{number}", HintKind.CLOSED) for number in range(20_000)]


def test_hints_are_taken_once_in_order_of_arrival() -> None:
    hints = ChangeQueue(SystemClock())
    first = [hints.add(hint) for hint in (HEARD[1], HEARD[0], HEARD[1])]

    assert first == [True, False, False]
    assert list(hints.take()) == [HEARD[1], HEARD[0]]
    assert not hints
    assert hints.add(HEARD[0])


async def test_hint_of_another_thread_wakes_the_loop() -> None:
    hints, loop = ChangeQueue(SystemClock()), asyncio.get_running_loop()

    def speak() -> None:
        for hint in HEARD:
            if hints.add(hint):
                loop.call_soon_threadsafe(hints.wake)

    speaker, taken = threading.Thread(target=speak), list[Hint]()
    speaker.start()
    async with asyncio.timeout(60):
        while len(taken) < len(HEARD):
            await hints.wait(None)
            taken += hints.take()
    speaker.join()

    assert taken == HEARD


async def test_wake_without_hint_ends_the_next_nap() -> None:
    hints = ChangeQueue(SystemClock())
    hints.wake()
    async with asyncio.timeout(60):
        await hints.wait(None)

    assert not hints.take()
