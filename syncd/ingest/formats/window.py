"""Bounded reads of an untrusted file, and the exceptions that end a check."""

import json
import os
from collections.abc import Callable
from typing import Any, NoReturn

WINDOW = 256 * 1024  # bytes held at a time, at most
_FIRST = 4 * 1024


class Fault(Exception):
    """The file is not complete; the text is the reason that users read."""


class Undecided(Exception):
    """The content follows its format as far as it was read, but its end is unknown."""


def read_at(fd: int, position: int, count: int) -> bytes:
    """Read up to *count* bytes; fewer only at the end (network file systems cut reads short)."""
    data = os.pread(fd, count, position)
    while 0 < len(data) < count:
        more = os.pread(fd, count - len(data), position + len(data))
        if not more:
            break
        data += more
    return data


class Window:
    """
    A cursor over ``[position, end)`` of a file, with at most ``WINDOW`` bytes of it in memory.

    A read past *end* raises ``Fault`` with the text *beyond*. Reads in sequence grow.
    """

    __slots__ = ("_ahead", "_base", "_beyond", "_end", "_fd", "buffer", "position")

    def __init__(self, fd: int, position: int, end: int, *, beyond: str) -> None:
        self._fd = fd
        self._end = end
        self._beyond = beyond
        self._base = position
        self._ahead = _FIRST
        self.buffer = b""
        self.position = position

    def at(self, count: int) -> int:
        """Load *count* bytes (at most ``WINDOW``) from the cursor on; return their index in ``buffer``."""
        index = self.position - self._base
        if index + count > len(self.buffer):
            self._load(count)
            return 0
        return index

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes, at most ``WINDOW``; raise ``Fault`` past the end."""
        index = self.at(count)
        self.position += count
        return self.buffer[index : index + count]

    def skip(self, count: int) -> None:
        """Move the cursor without reading; raise ``Fault`` past the end."""
        if count > self._end - self.position:
            raise Fault(self._beyond)
        self.position += count

    def _load(self, count: int) -> None:
        jumped = self.position - self._base - len(self.buffer) > _FIRST
        self._ahead = _FIRST if jumped else min(self._ahead * 2, WINDOW)
        self._base = self.position
        ahead = min(max(count, self._ahead), self._end - self.position)
        self.buffer = read_at(self._fd, self.position, ahead)
        if len(self.buffer) < count:  # beyond the end, or the file has shrunk
            raise Fault(self._beyond)


# -- JSON in bounded memory ---------------------------------------------------------------------------

MAX_SIZE = 10_000_000  # bytes; a header of 80,000 tensors takes 8 MB
MAX_COMMAS = 500_000  # bounds the values, and so the memory: at most 128 MiB together with the text


def load_json(
    fd: int,
    position: int,
    size: int,
    *,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """
    Parse *size* bytes of JSON (RFC 8259, UTF-8) at *position*.

    Raises ``Fault`` if it is not JSON, ``Undecided`` beyond ``MAX_SIZE`` or ``MAX_COMMAS``, and
    ``OSError``.
    """
    if size > MAX_SIZE:
        raise Undecided(f"{size:,} bytes of JSON are more than the {MAX_SIZE:,} that are parsed")
    try:
        text = read_at(fd, position, size).decode()
        if text.count(",") > MAX_COMMAS:
            raise Undecided(f"the JSON text has more than {MAX_COMMAS:,} values")
        return json.loads(
            text, object_pairs_hook=object_pairs_hook, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise Fault("damaged: the header is not valid JSON") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
