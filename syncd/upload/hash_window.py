"""
Bounds how far hashing may be ahead of sending, and lets a part be sent once it is hashed.

A part is sent after all its leaves are hashed, so each leaf can be compared before its last piece
leaves. Hashing stays within a bounded distance, so that the senders find the bytes in the page cache.
Everything here runs in the event loop; the bytes move in threads.
"""

import asyncio
import math
from collections.abc import Callable, Iterable

from syncd.core.jobs.parts import leaves_of
from syncd.types import LEAF_DIGEST_SIZE, LEAF_SIZE, Part

PARTS_AHEAD = 8
"""Parts that may be hashed beyond those that are being sent."""


class HashWindow:
    """
    The leaf digests of a file as they become known.

    Args:
        leaves: The digests known so far.
        missing: The parts to send, in order.
        width: Returns the number of parts that may be sent at once.
    """

    def __init__(self, leaves: bytes, missing: Iterable[Part], *, width: Callable[[], int]) -> None:
        self._leaves = leaves
        self._missing = {part.number: part for part in missing}
        self._width = width
        self._sending = True
        self._changed = asyncio.Event()

    async def over(self, part: Part) -> bytes | None:
        """Wait until *part* is hashed; all known digests, or None if nothing more is sent."""
        while len(self._leaves) < leaves_of(part).stop and self._sending:
            await self._changed.wait()
        return self._leaves if self._sending else None

    async def room(self) -> None:
        """Wait until hashing may continue."""
        while len(self._leaves) // LEAF_DIGEST_SIZE * LEAF_SIZE >= self._bound():
            await self._changed.wait()

    def grow(self, leaves: bytes) -> None:
        """Publish the digests known so far."""
        self._leaves = leaves
        self._notify()

    def acknowledged(self, part: Part) -> None:
        """Note that the object store has *part*."""
        del self._missing[part.number]
        self._notify()

    def end(self) -> None:
        """Stop the senders; the rest of the file may be hashed without waiting."""
        self._sending = False
        self._notify()

    def _bound(self) -> float:
        first = next(iter(self._missing.values()), None)
        if first is None or not self._sending:
            return math.inf
        return first.offset + (self._width() + PARTS_AHEAD) * first.size

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
