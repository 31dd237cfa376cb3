"""What was heard and not looked at yet, from any thread."""

import asyncio
import threading

from syncd.clock import SystemClock
from syncd.ingest.change_queue import ChangeQueue
from syncd.types import Hint, HintKind

HEARD = [Hint(1, f"loras/{number}", HintKind.CLOSED) for number in range(20_000)]


def test_each_is_taken_once_in_the_order_of_arrival() -> None:
    hints = ChangeQueue(SystemClock())
    first = [hints.add(hint) for hint in (HEARD[1], HEARD[0], HEARD[1])]

    assert first == [True, False, False]
    assert list(hints.take()) == [HEARD[1], HEARD[0]]
    assert not hints
    assert hints.add(HEARD[0])


async def test_nothing_that_another_thread_says_is_lost_or_slept_over() -> None:
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


async def test_a_wake_without_a_hint_ends_the_next_nap() -> None:
    hints = ChangeQueue(SystemClock())
    hints.wake()
    async with asyncio.timeout(60):
        await hints.wait(None)

    assert not hints.take()
