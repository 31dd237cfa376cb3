"""
What a disk may hold after the power went, from the calls that a program had made.

A write is safe once its file was synced after it. Until then each 512-byte sector of it may have
reached the disk or not, whatever came before or after. Names come and go in order, since file
systems keep a journal of them, and are safe once their directory was synced.
"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

SECTOR = 512
MEMORY = "-shm"
"""Files named so are shared memory: nothing of them is ever read from the disk."""

_HEX = r"((?:\\x[0-9a-f]{2})*)"
_LINE = re.compile(r"\d+ +(?P<name>\w+)\((?P<rest>.*)")
_FILE, _TEXT = re.compile(f"<{_HEX}>"), re.compile(f'"{_HEX}"')
_NUMBERS = re.compile(r"[>\"], (\d+)(?:, (\d+))?")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that changed something; *data* at *offset* for a write, *offset* is a truncate's size."""

    name: str
    path: Path
    data: bytes = b""
    offset: int = 0


def calls(log: Path) -> Iterator[Call]:
    """What ``strace -f -y -xx`` wrote down, in order; calls that failed left out."""
    with log.open(encoding="ascii") as lines:
        for line in lines:
            match = _LINE.match(line)
            if match and ") = -1 " not in line:
                yield from _call(match["name"], match["rest"])


def _call(name: str, rest: str) -> Iterator[Call]:
    texts = [_bytes(text) for text in _TEXT.findall(rest)]
    files = [Path(_bytes(file).decode()) for file in _FILE.findall(rest)]
    match name:
        case "openat" if "O_CREAT" in rest:
            yield Call(name, Path(texts[0].decode()))
        case "unlink":
            yield Call(name, Path(texts[0].decode()))
        case "pwrite64":
            numbers = _NUMBERS.findall(rest.rpartition('"')[1] + rest.rpartition('"')[2])
            yield Call(name, files[0], texts[0], int(numbers[0][1]))
        case "ftruncate":
            yield Call(name, files[0], offset=int(_NUMBERS.findall(rest)[0][0]))
        case "write" | "fsync" | "fdatasync":
            yield Call(name, files[0])


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


@dataclass(frozen=True, slots=True)
class Contents:
    """A file: what the disk is sure to hold, and the writes and truncates since."""

    safe: bytes = b""
    since: tuple[Call, ...] = ()

    def now(self) -> bytes:
        """As the program sees it."""
        return self._after(self.since)

    def drawn(self, draw: random.Random) -> bytes:
        """As the disk may hold it."""
        reach = draw.choice((0.0, 0.5, 0.9, 1.0))
        return self._after(piece for call in self.since for piece in _torn(call, reach, draw))

    def _after(self, since: Iterator[Call] | tuple[Call, ...]) -> bytes:
        content = bytearray(self.safe)
        for call in since:
            end = call.offset + len(call.data)
            if len(content) < end:
                content.extend(bytes(end - len(content)))
            if call.name == "ftruncate":
                del content[call.offset :]
            content[call.offset : end] = call.data
        return bytes(content)


def _torn(call: Call, reach: float, draw: random.Random) -> Iterator[Call]:
    """The sectors of a write that reached the disk; a truncate did as a whole or not at all."""
    if call.name == "ftruncate":
        if draw.random() < reach:
            yield call
        return
    start, end = call.offset, call.offset + len(call.data)
    while start < end:
        stop = min(end, start - start % SECTOR + SECTOR)
        if draw.random() < reach:
            yield replace(
                call, offset=start, data=call.data[start - call.offset : stop - call.offset]
            )
        start = stop


Names = Mapping[str, int]
"""What a directory lists: names and the numbers of their contents."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One directory at one moment. ``lists`` is how it looked after each change since its sync."""

    files: tuple[Contents, ...] = ()
    lists: tuple[Names, ...] = field(default=({},))

    @classmethod
    def holding(cls, folder: Path) -> "Disk":
        """All that is in *folder* now, and safe."""
        paths = [path for path in sorted(folder.glob("*")) if not path.name.endswith(MEMORY)]
        files = tuple(Contents(path.read_bytes()) for path in paths)
        return cls(files, ({path.name: number for number, path in enumerate(paths)},))

    def after(self, call: Call, folder: Path) -> "Disk":
        """The disk once *call* was made; calls on other directories change nothing."""
        if call.path == folder:
            return replace(self, lists=self.lists[-1:])
        name, names = call.path.name, self.lists[-1]
        if call.path.parent != folder or name.endswith(MEMORY):
            return self
        if call.name == "openat":
            return self if name in names else self._created(name)
        if call.name == "unlink":
            left = {other: number for other, number in names.items() if other != name}
            return replace(self, lists=(*self.lists, left))
        file = self.files[names[name]]
        if call.name in ("fsync", "fdatasync"):
            return self._with(names[name], Contents(file.now()))
        return self._with(names[name], replace(file, since=(*file.since, call)))

    def now(self) -> dict[str, bytes]:
        """Files as the program sees them."""
        return {name: self.files[number].now() for name, number in self.lists[-1].items()}

    def drawn(self, draw: random.Random) -> dict[str, bytes]:
        """Files as they may be found after a loss of power at this moment."""
        names = draw.choice(self.lists)
        return {name: self.files[number].drawn(draw) for name, number in names.items()}

    def _created(self, name: str) -> "Disk":
        names = {**self.lists[-1], name: len(self.files)}
        return Disk((*self.files, Contents()), (*self.lists, names))

    def _with(self, number: int, file: Contents) -> "Disk":
        files = (*self.files[:number], file, *self.files[number + 1 :])
        return replace(self, files=files)
