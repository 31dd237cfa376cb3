"""Hints that wait to be processed; the first one ends the wait of the loop."""

import asyncio
import threading
from collections.abc import Collection

from syncd.clock import Clock, wait_until
from syncd.types import Hint


class ChangeQueue:
    """Collects hints, each once, in order of arrival."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._hints: dict[Hint, None] = {}  # an ordered set
        self._wake = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._hints)

    def add(self, hint: Hint) -> bool:
        """Add a hint, from any thread; if it returns True, ``wake`` must follow."""
        with self._lock:
            first = not self._hints
            self._hints[hint] = None
        return first

    def take(self) -> Collection[Hint]:
        with self._lock:
            hints, self._hints = self._hints, {}
        return hints.keys()

    def wake(self) -> None:
        """End the current wait, or the next one; call it in the event loop's thread."""
        self._wake.set()

    async def wait(self, seconds: float | None) -> None:
        """Wait until woken, or until *seconds* have passed."""
        await wait_until(self._clock, self._wake, seconds)
        self._wake.clear()
