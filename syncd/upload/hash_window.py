"""
Hashing beside sending: how far a file is hashed, and how far ahead of its sending it may be.

A part leaves once all its leaves are hashed, so each of them can be compared before its last piece
leaves. The hashing in turn keeps a bounded distance, so that the senders find in the page cache what
it has read. All of this happens in the loop; the bytes move in threads.
"""

import asyncio
import math
from collections.abc import Callable, Iterable

from syncd.core.jobs.parts import leaves_of
from syncd.types import LEAF_DIGEST_SIZE, LEAF_SIZE, Part

PARTS_AHEAD = 8
"""So many parts may be hashed beyond those that are on the wire."""


class HashWindow:
    """
    The leaf digests of a file as they become known, and the bound on how fast they may.

    Args:
        leaves: Those known already.
        missing: The parts that are still to be sent, in order.
        width: How many parts may be on the wire now.
    """

    def __init__(self, leaves: bytes, missing: Iterable[Part], *, width: Callable[[], int]) -> None:
        self._leaves = leaves
        self._missing = {part.number: part for part in missing}
        self._width = width
        self._sending = True
        self._changed = asyncio.Event()

    async def over(self, part: Part) -> bytes | None:
        """All digests known, once those of *part* are; None where it is not to be sent any more."""
        while len(self._leaves) < leaves_of(part).stop and self._sending:
            await self._changed.wait()
        return self._leaves if self._sending else None

    async def room(self) -> None:
        """Wait until the hashing may go on."""
        while len(self._leaves) // LEAF_DIGEST_SIZE * LEAF_SIZE >= self._bound():
            await self._changed.wait()

    def grow(self, leaves: bytes) -> None:
        """The hashing came this far."""
        self._leaves = leaves
        self._tell()

    def acknowledged(self, part: Part) -> None:
        """The store has *part*."""
        del self._missing[part.number]
        self._tell()

    def end(self) -> None:
        """Nothing more is sent: who waits for that is told, and the rest may be hashed at once."""
        self._sending = False
        self._tell()

    def _bound(self) -> float:
        first = next(iter(self._missing.values()), None)
        if first is None or not self._sending:
            return math.inf
        return first.offset + (self._width() + PARTS_AHEAD) * first.size

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
