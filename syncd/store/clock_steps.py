"""
Detects that the wall clock was set, and keeps the length of the waits in the store.

Jobs, holds and quotas wait for a time of day, because their waits outlive the process. Code that
compares such a time with the clock must follow the steps of the clock first.
"""

from collections.abc import Callable

import structlog

from syncd.clock import Clock
from syncd.executors import Executors
from syncd.store.store import Store

STEP_MS = 1000
"""A smaller step is not worth a commit; several small ones add up."""


class ClockSteps:
    """
    Compares the wall clock with the time since boot, which cannot be set.

    Args:
        on_step: Called after each step, in the loop's thread.
    """

    def __init__(
        self, *, store: Store, lanes: Executors, clock: Clock, on_step: Callable[[], None]
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._on_step = on_step
        self._ahead_ms = self._measured_ms()
        self._log = structlog.get_logger("syncd.clock")

    async def follow(self) -> None:
        """Move the stored times along if the clock was set since the last call."""
        ahead_ms = self._measured_ms()
        step_ms = ahead_ms - self._ahead_ms
        if abs(step_ms) < STEP_MS:
            return
        # Set before the await: the store runs its calls in order, so later calls see the moved times.
        self._ahead_ms = ahead_ms
        await self._lanes.db(self._store.times.shift, step_ms, self._clock.now_ms())
        self._log.warning("clock.stepped", seconds=step_ms / 1000)
        self._on_step()

    def _measured_ms(self) -> int:
        """How far the wall clock is ahead of the time since boot."""
        return self._clock.now_ms() - int(self._clock.boottime_s() * 1000)
