"""
Checks that a zip archive (``torch.save`` since 1.6, TorchScript, ``torch.export``) is complete.

The layout is that of PKWARE's APPNOTE 6.3. Nothing is decompressed. Stricter than ``zipfile`` in two
points: the directory must stand where the end record says, or an archive inside a cut one would pass
for it; and every entry must begin with its own header, so that a hole left by a downloader shows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from syncd.ingest.formats.window import Fault, Window, read_at

MAX_ENTRIES = 200_000  # ten times what the largest models have; each costs one small read

_END = Struct("<4s4H2LH")
_LOCATOR = Struct("<4sLQL")
_END64 = Struct("<4sQ2H2L4Q")
_CENTRAL = Struct("<4s6H3L5H2L")
_LOCAL = Struct("<4s5H3L2H")
_UINT64 = Struct("<Q")
_LONGEST_COMMENT = 65_535
_IN_EXTRA = 0xFFFF_FFFF
_OF_TORCH = frozenset((b"data.pkl", b"version", b"archive_format"))


@dataclass(frozen=True, slots=True)
class _Directory:
    """The central directory fills ``[start, end)``."""

    start: int
    end: int
    entries: int


def check(fd: int, size: int) -> None:
    """Raise ``Fault`` unless there is a central directory and every entry ends before it."""
    directory = _directory(fd, size)
    if directory.entries > MAX_ENTRIES:
        raise Fault(f"damaged: a zip directory of {directory.entries:,} entries cannot be")
    total = 0
    for _, position, stored in _entries(fd, directory):
        if position > directory.start:
            raise Fault("damaged: an entry of the zip archive begins behind its directory")
        end = _content(fd, position) + stored
        total += end - position
        if end > directory.start or total > directory.start:
            raise Fault("damaged: the entries of the zip archive run into each other")


def is_torch(fd: int, size: int) -> bool:
    """Return whether a complete archive contains an entry that all archives of torch have."""
    names = (name.rpartition(b"/")[2] for name, _, _ in _entries(fd, _directory(fd, size)))
    return not _OF_TORCH.isdisjoint(names)


def _directory(fd: int, size: int) -> _Directory:
    tail_size = min(size, _END.size + _LONGEST_COMMENT)
    tail = read_at(fd, size - tail_size, tail_size)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or found + _END.size > len(tail):
        raise Fault("incomplete: the zip archive has no directory at its end")
    *_, entries, length, start, comment = _END.unpack_from(tail, found)
    if found + _END.size + comment > len(tail):
        raise Fault("incomplete: the zip archive ends within its comment")
    end = size - tail_size + found
    end, entries, length, start = _end64(fd, end) or (end, entries, length, start)
    if start + length != end:
        raise Fault("damaged: the directory of the zip archive is not where the archive says")
    return _Directory(start, end, entries)


def _end64(fd: int, end: int) -> tuple[int, int, int, int] | None:
    """Return end, entries, length and start of the directory by the zip64 record, if there is one."""
    if end < _LOCATOR.size + _END64.size:
        return None
    locator = read_at(fd, end - _LOCATOR.size, _LOCATOR.size)
    if not locator.startswith(b"PK\x06\x07"):
        return None
    position = _LOCATOR.unpack(locator)[2]
    if position <= end - _LOCATOR.size - _END64.size:
        record = read_at(fd, position, _END64.size)
        if record.startswith(b"PK\x06\x06"):
            *_, entries, length, start = _END64.unpack(record)
            return position, entries, length, start
    raise Fault("damaged: the zip archive has no zip64 record where it says")


def _entries(fd: int, directory: _Directory) -> Iterator[tuple[bytes, int, int]]:
    beyond = "damaged: the directory of the zip archive is cut short"
    window = Window(fd, directory.start, directory.end, beyond=beyond)
    for _ in range(directory.entries):
        central = _CENTRAL.unpack(window.take(_CENTRAL.size))
        if central[0] != b"PK\x01\x02":
            raise Fault("damaged: the directory of the zip archive holds something else")
        stored, full, name_size, extra, comment = central[8:13]
        position = central[16]
        name = window.take(name_size)
        if _IN_EXTRA in (full, stored, position):
            position, stored = _wide(full, stored, position, window.take(extra))
        else:
            window.skip(extra)
        window.skip(comment)
        yield name, position, stored


def _wide(full: int, stored: int, position: int, extra: bytes) -> tuple[int, int]:
    """Read the numbers that do not fit 32 bits from field 1 of *extra*."""
    wide = _field(extra, 1)
    numbers = (value for (value,) in _UINT64.iter_unpack(wide[: len(wide) // 8 * 8]))
    try:
        if full == _IN_EXTRA:
            next(numbers)
        stored = next(numbers) if stored == _IN_EXTRA else stored
        position = next(numbers) if position == _IN_EXTRA else position
    except StopIteration:
        raise Fault("damaged: an entry of the zip archive lacks its zip64 numbers") from None
    return position, stored


def _field(extra: bytes, wanted: int) -> bytes:
    at = 0
    while at + 4 <= len(extra):
        kind = int.from_bytes(extra[at : at + 2], "little")
        length = int.from_bytes(extra[at + 2 : at + 4], "little")
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def _content(fd: int, position: int) -> int:
    header = read_at(fd, position, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
        raise Fault("damaged: an entry of the zip archive is not where its directory says")
    *_, name, extra = _LOCAL.unpack(header)
    return position + _LOCAL.size + int(name) + int(extra)
