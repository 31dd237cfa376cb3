"""What was asked and answered, call by call: for assertions, and for a checker after a run."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

LIMIT = 200_000
"""Entries kept; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One call. ``seq`` counts arrivals from 1; the history itself is in the order of the effects.

    ``status`` is what the cloud decided, None if the call never reached it; ``answered`` is the
    status that the client received, None for a broken connection; ``lost`` means that it received no
    answer, or only a part. ``size`` is the declared file size, at the store the bytes received.
    ``retry_after`` is the header of the answer, if it had one.
    """

    seq: int
    at_ms: int
    call: str
    method: str
    path: str
    header_names: tuple[str, ...]
    who: str = "none"  # session, device, integration, agent, unknown, presigned, none
    model_path: str | None = None
    storage_key: str | None = None
    upload_id: str | None = None
    part: int | None = None
    size: int | None = None
    sha256: str | None = None
    file_hash: str | None = None
    record_id: str | None = None
    status: int | None = None
    answered: int | None = None
    error: str | None = None
    fault: str | None = None
    lost: bool = False
    retry_after: str | None = None

    @property
    def ok(self) -> bool:
        """Did the call take effect, whatever the client saw?"""
        return self.status is not None and 200 <= self.status < 300


class Draft:
    """
    An entry in the making; the rooms behind the door note what they learn.

    ``late``: the call takes effect after its answer, and enters the history only then.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.late = False

    def note(self, **facts: Any) -> None:
        """Set members of the entry."""
        self.entry = replace(self.entry, **facts)


class History:
    """Append-only, bounded, safe to read from another thread."""

    def __init__(self, listener: Callable[[Entry], None] | None = None) -> None:
        self._entries: deque[Entry] = deque(maxlen=LIMIT)
        self._lock = threading.Lock()
        self._seq = 0
        self._listener = listener

    def next_seq(self) -> int:
        """The number of a call that arrives now."""
        with self._lock:
            self._seq += 1
            return self._seq

    def add(self, entry: Entry) -> None:
        """Append, then tell the listener."""
        with self._lock:
            self._entries.append(entry)
        if self._listener is not None:
            self._listener(entry)

    def entries(self, *calls: str) -> tuple[Entry, ...]:
        """All entries, or those of *calls*."""
        with self._lock:
            return tuple(e for e in self._entries if not calls or e.call in calls)

    def count(self, *calls: str) -> int:
        """How many entries of *calls* there are."""
        return len(self.entries(*calls))
