"""What was heard and not looked at yet; a nap ends with the first of it."""

import asyncio
import threading
from collections.abc import Collection
from typing import Any

from syncd.clock import Clock
from syncd.types import Hint


class ChangeQueue:
    """
    Collects hints, each once, in order of arrival.

    Args:
        clock: By which a nap is long.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: dict[Hint, None] = {}  # a set in order of arrival
        self._wake = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._heard)

    def add(self, hint: Hint) -> bool:
        """From any thread; is it the first since all were taken, so that somebody must ``wake``?"""
        with self._lock:
            first = not self._heard
            self._heard[hint] = None
        return first

    def take(self) -> Collection[Hint]:
        """All that were heard; none is left."""
        with self._lock:
            heard, self._heard = self._heard, {}
        return heard.keys()

    def wake(self) -> None:
        """End the nap, or the next one; in the thread of the event loop."""
        self._wake.set()

    async def nap(self, seconds: float | None) -> None:
        """Until woken, or until *seconds* have passed."""
        waiters: set[asyncio.Task[Any]] = {asyncio.create_task(self._wake.wait())}
        if seconds is not None:
            waiters.add(asyncio.create_task(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        self._wake.clear()
