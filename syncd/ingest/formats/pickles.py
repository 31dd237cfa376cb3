"""
Pickles, and what ``torch.save`` wrote before 1.6; nothing is unpickled.

The last byte decides whether a plain pickle is complete. A legacy torch file has raw storages after its
pickles and no end mark, so ``pickletools`` lists the opcodes of its few small pickles, and the sizes of
the storages that they name are added up.
"""

import pickletools
import re
from collections import deque
from collections.abc import Iterator, Mapping
from io import BytesIO

from syncd.ingest.formats.window import Fault, Undecided, read_at

MAX_OPCODES = 200_000  # a state dict takes about 45 per tensor
MAX_PICKLES = 4 * 1024 * 1024  # bytes of all pickles of a legacy file, without the storages
MAX_LINE = 1024  # bytes of a name of a class

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
    """Raise ``Fault`` if the file does not end with the opcode that ends a pickle."""
    if read_at(fd, size - 1, 1) != b".":
        raise Fault("incomplete: a pickle ends with a full stop, this file does not")


def check_legacy(fd: int, size: int) -> None:
    """
    Raise ``Fault`` if the file lacks storages that its pickles name, or a pickle is cut off.

    Undecided: The opcodes cannot be listed, or a storage has an unknown class.
    """
    data = read_at(fd, 0, min(size, MAX_PICKLES))
    source, storages = _Pickles(data), dict[str | int, int]()
    opcodes = _opcodes(source)
    try:
        for _ in range(_LEGACY_PICKLES):
            for persistent_id in _persistent_ids(opcodes):
                _add_storage(storages, persistent_id)
    except ValueError:
        if source.tell() == len(data) < MAX_PICKLES:
            raise Fault("incomplete: a pickle runs past the end of the file") from None
        raise Undecided("its opcodes cannot be followed to the end") from None
    # The number of elements precedes each storage.
    needed, present = sum(8 + length for length in storages.values()), size - source.tell()
    if needed > present:
        raise Fault(f"incomplete: {needed:,} bytes of storages are named, the file has {present:,}")


class _Pickles(BytesIO):
    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(MAX_LINE)
        if b"\\" in line:
            raise ValueError("no name of a class has escapes")
        return line


def _opcodes(source: BytesIO) -> Iterator[tuple[str, object]]:
    left = MAX_OPCODES
    while True:
        for opcode, argument, _ in pickletools.genops(source):
            left -= 1
            if left < 0:
                raise Undecided("its pickles are too long")
            yield opcode.name, argument


def _persistent_ids(opcodes: Iterator[tuple[str, object]]) -> Iterator[list[object]]:
    """
    Yield the values of each persistent id in the next pickle.

    torch's are tuples of strings and numbers after a MARK; every other value is None.
    """
    memo: dict[object, object] = {}
    memoized = 0
    values: deque[object] = deque(maxlen=32)
    for name, argument in opcodes:
        match name:
            case "STOP":
                return
            case "MARK":
                values.clear()
            case "BINGET" | "LONG_BINGET":
                values.append(memo.get(argument))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE" if values:
                memo[memoized if name == "MEMOIZE" else argument] = values[-1]
                memoized += name == "MEMOIZE"
            case "STACK_GLOBAL" if len(values) >= 2:
                qualified, module = values.pop(), values.pop()
                values.append(f"{module} {qualified}")
            case "BINPERSID":
                yield list(values)
            case "PROTO" | "FRAME":
                pass
            case _:
                values.append(argument if isinstance(argument, int | str) else None)


def _add_storage(storages: dict[str | int, int], persistent_id: list[object]) -> None:
    """Note the size in bytes of the storage that a persistent id of torch names."""
    match persistent_id:
        case ["storage", str(name), str() | int() as key, _, int(count), *_] if count >= 0:
            element = _STORAGES.get(name.rpartition(" ")[2])
            if element is None:
                raise Undecided("its storages are of an unknown class")
            storages[key] = count * element
        case ["module", *_]:
            pass
        case _:
            raise Undecided("it names storages in an unknown way")
