"""
``limits.max_bytes_per_day``: counts sent bytes in the store, so that the count survives restarts.

It counts the bytes of bodies that were handed to the connection, arrived or not, as a metered line
does.
"""

from collections.abc import Callable

from syncd.clock import Clock
from syncd.core.transfer.quota import next_allowed_ms, sent_within_a_day
from syncd.executors import Executors
from syncd.store.store import Store


class TransferQuota:
    """
    The bytes that may be sent in any 24 hours.

    Args:
        limit: Returns the current limit in bytes; None: no limit, and nothing is counted.
    """

    def __init__(
        self, limit: Callable[[], int | None], *, store: Store, lanes: Executors, clock: Clock
    ) -> None:
        self._limit = limit
        self._store = store
        self._lanes = lanes
        self._clock = clock

    @property
    def limit(self) -> int | None:
        return self._limit()

    async def wait_s(self) -> float:
        """Seconds until another body may be sent; 0 if one may be sent now."""
        limit = self.limit
        if limit is None:
            return 0.0
        now_ms = self._clock.now_ms()
        return (next_allowed_ms(await self._counted(), limit, now_ms) - now_ms) / 1000

    async def sent_within_a_day(self) -> int:
        return sent_within_a_day(await self._counted(), self._clock.now_ms())

    async def spend(self, size: int) -> None:
        """Count *size* sent bytes."""
        if self.limit is not None and size:
            await self._lanes.db(self._store.sent.add, size, self._clock.now_ms())

    async def _counted(self) -> dict[int, int]:
        return await self._lanes.db(self._store.sent.by_hour)
