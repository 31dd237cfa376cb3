"""
Pickles, and what ``torch.save`` wrote before 1.6; nothing is unpickled.

The first and the last bytes decide whether a plain pickle is complete. A legacy torch file has raw
storages after its pickles and no end mark, so ``pickletools`` lists the opcodes of its few small
pickles, and the sizes of the storages that they name are added up.
"""

import pickletools
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import IO, cast

from syncd.ingest.formats.window import Fault, Undecided, Window, read_at

MAX_OPCODES = 500_000
"""A state dict takes about 45 per tensor."""

MAX_STORAGES = 20_000
MAX_MEMO = 20_000
MAX_KEPT = 64
"""Characters of a string that is kept; keys, locations and names of storages are shorter."""

MAX_ARGUMENT = 65_536
"""Bytes of one opcode's argument; tensors are not among them."""

MAX_LINE = 1024
"""Bytes of a line, which is read byte by byte: a name of a class."""

MAX_READ = 64 * 1024 * 1024
"""Bytes that are read in all, so that a file cannot occupy the thread that scans for long."""

_LEGACY_START = re.compile(
    rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a"
    + re.escape(0x1950A86A20F9469CFC6C.to_bytes(10, "little"))
    + rb"\.",
    re.DOTALL,
)
_LEGACY_PICKLES = 5  # magic, protocol version, system, the object, the keys of its storages

_STORAGES: Mapping[str, int] = {
    "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "QInt8Storage": 1, "QUInt8Storage": 1,
    "QUInt4x2Storage": 1, "QUInt2x4Storage": 1, "UntypedStorage": 1,
    "ShortStorage": 2, "HalfStorage": 2, "BFloat16Storage": 2,
    "IntStorage": 4, "FloatStorage": 4, "QInt32Storage": 4,
    "LongStorage": 8, "DoubleStorage": 8, "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}  # fmt: skip
"""torch's storage classes -> bytes of an element."""


def is_legacy(start: bytes) -> bool:
    """Return whether a file that starts with *start* (32 bytes are enough) is a legacy torch file."""
    return _LEGACY_START.match(start) is not None


def check(fd: int, size: int) -> None:
    """
    Check that the file ends with the opcode that ends a pickle.

    Raises:
        Fault: It does not.
        OSError: The file cannot be read.
    """
    if read_at(fd, size - 1, 1) != b".":
        raise Fault("incomplete: a pickle ends with a full stop, this file does not")


def check_legacy(fd: int, size: int) -> None:
    """
    Check that a legacy torch file contains all storages that its pickles name.

    Raises:
        Fault: It does not, or a pickle is cut off.
        Undecided: The opcodes cannot be listed, or a storage has an unknown class.
        OSError: The file cannot be read.
    """
    source, storages = _PickleSource(fd, size), dict[str | int, int]()
    for _ in range(_LEGACY_PICKLES):
        for persistent_id in _persistent_ids(source):
            _add_storage(storages, persistent_id)
    # The number of elements precedes each storage.
    needed, present = sum(8 + length for length in storages.values()), size - source.tell()
    if needed > present:
        raise Fault(f"incomplete: {needed:,} bytes of storages are named, the file has {present:,}")


class _PickleSource:
    """The file that ``pickletools.genops`` reads, with bounds on all it asks for."""

    def __init__(self, fd: int, size: int) -> None:
        beyond = "incomplete: a pickle runs past the end of the file"
        self._window = Window(fd, 0, size, beyond=beyond)
        self._opcodes_left, self._bytes_left = MAX_OPCODES, MAX_READ

    def tell(self) -> int:
        return self._window.position

    def read(self, count: int) -> bytes:
        if count > MAX_ARGUMENT:
            self._window.skip(count)
            raise Undecided("its pickles contain long values")
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise Undecided("its pickles are too long")
        return self._window.take(count)

    def readline(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self.read(1)
            if len(line) > MAX_LINE or line.endswith(b"\\"):  # no name of a class has escapes
                raise Undecided("its pickles contain unusual text")
        return bytes(line)

    def opcodes(self) -> Iterator[tuple[str, object]]:
        """Yield name and argument of each opcode of the next pickle."""
        try:
            for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", self)):
                self._opcodes_left -= 1
                if self._opcodes_left < 0:
                    break
                yield opcode.name, argument
            else:
                return
        except ValueError:
            pass
        raise Undecided("its opcodes cannot be followed to the end")


def _persistent_ids(source: _PickleSource) -> Iterator[list[object]]:
    """
    Yield the values of each persistent id in the next pickle.

    torch's are tuples of strings and numbers, written after a MARK. Only these are followed, also
    through the memo; every other value is None.
    """
    memo: dict[int, object] = {}
    memoized = 0
    values: deque[object] = deque(maxlen=32)
    for name, argument in source.opcodes():
        match name, argument:
            case "MARK", _:
                values.clear()
            case "BINGET" | "LONG_BINGET", int(index):
                values.append(memo.get(index))
            case "BINPUT" | "LONG_BINPUT", int(index):
                _remember(memo, index, values)
            case "MEMOIZE", _:
                _remember(memo, memoized, values)
                memoized += 1
            case "STACK_GLOBAL", _ if len(values) >= 2:
                qualified, module = values.pop(), values.pop()
                values.append(f"{module} {qualified}")
            case "BINPERSID", _:
                yield list(values)
            case (("PROTO" | "FRAME"), _):
                pass
            case _, str() if len(argument) > MAX_KEPT:
                values.append(None)
            case _, int() | str():
                values.append(argument)
            case _:
                values.append(None)


def _remember(memo: dict[int, object], index: int, values: deque[object]) -> None:
    if values and isinstance(values[-1], str) and len(memo) < MAX_MEMO:
        memo[index] = values[-1]
    else:
        memo.pop(index, None)


def _add_storage(storages: dict[str | int, int], persistent_id: list[object]) -> None:
    """Note the size in bytes of the storage that a persistent id of torch names."""
    match persistent_id:
        case ["storage", str(name), str() | int() as key, _, int(count), *_] if count >= 0:
            element = _STORAGES.get(name.rpartition(" ")[2])
            if element is None or len(storages) == MAX_STORAGES:
                raise Undecided("its storages are of an unknown class, or too many")
            storages[key] = count * element
        case ["module", *_]:
            pass
        case _:
            raise Undecided("it names storages in an unknown way")
