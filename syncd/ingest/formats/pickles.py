"""
Pickles, and what ``torch.save`` wrote before 1.6: followed opcode by opcode, never executed.

An opcode moves a stack of which only numbers, short strings and dotted names are kept as such,
everything else is None; no class is imported, no object made. That is enough to find the end of a
pickle, and in torch's legacy format to add up the storages that stand raw behind the pickles.
"""

import pickletools
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from syncd.ingest.formats.window import Fault, Undecided, Window, read_at

MAX_OPCODES = 500_000
"""A state dict takes some 45 a tensor."""

MAX_STACK = 5_000
MAX_MEMO = 20_000
MAX_STORAGES = 20_000
MAX_KEPT = 64
"""Bytes of a string that is kept; keys, places and names of storages are shorter."""

MAX_TUPLE = 8
MAX_LINE = 1024

_PICKLE_START = re.compile(rb"\x80[\x02-\x05]")
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

Value = int | bytes | tuple[int | bytes | None, ...]
"""What is known of an object; None, where that is nothing."""


@dataclass(frozen=True, slots=True)
class _Opcode:
    """
    What an opcode reads and does to the stack.

    ``argument`` is a number of bytes, or one of ``pickletools``' negative kinds; ``pops`` counts
    values, below the mark if ``to_mark``, in which case everything above the mark goes too.
    """

    name: str
    argument: int
    pops: int
    to_mark: bool
    pushes: int


def _opcode(info: pickletools.OpcodeInfo) -> _Opcode:
    before, mark = info.stack_before, pickletools.markobject
    return _Opcode(
        name=info.name,
        argument=0 if info.arg is None else info.arg.n,
        pops=before.index(mark) if mark in before else len(before),
        to_mark=mark in before,
        pushes=len(info.stack_after),
    )


_OPCODES = {ord(info.code): _opcode(info) for info in pickletools.opcodes}
_LENGTH_SIZES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_CONSTANTS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "GLOBAL"}
    | {"BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE"}
)
"""Opcodes that push their argument."""

_FOLLOWED = frozenset(
    {"BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "DUP", "TUPLE", "STACK_GLOBAL"}
    | {"BINPERSID"}
)
"""Opcodes whose meaning matters; of all others only what they do to the height of the stack."""


def is_legacy(start: bytes) -> bool:
    """Does the file begin (32 bytes are enough) as ``torch.save`` wrote it before version 1.6?"""
    return _LEGACY_START.match(start) is not None


def check(fd: int, size: int) -> None:
    """
    Does the pickle, or the last of several, end with the file?

    Where the opcodes cannot be followed to the end, the last byte alone decides.

    Raises:
        Fault: It does not.
        OSError: The file cannot be read.
    """
    if read_at(fd, size - 1, 1) != b".":
        raise Fault("incomplete: a pickle ends with a full stop, this file does not")
    window = _window(fd, size)
    walk = _Walk(window, lambda _: None)
    with suppress(Undecided):
        walk.follow()
        while _PICKLE_START.match(read_at(fd, window.position, 2)):
            walk.follow()


def check_legacy(fd: int, size: int) -> None:
    """
    Are all storages there that the pickles of a legacy torch file name?

    Raises:
        Fault: They are not, or a pickle is cut.
        Undecided: The opcodes cannot be followed, or a storage is of an unknown class.
        OSError: The file cannot be read.
    """
    window, storages = _window(fd, size), dict[Value, int]()
    walk = _Walk(window, lambda persistent: _note(persistent, storages))
    for _ in range(_LEGACY_PICKLES):
        walk.follow()
    # Each storage stands behind its number of elements.
    needed, present = sum(8 + each for each in storages.values()), size - window.position
    if needed > present:
        raise Fault(f"incomplete: {needed:,} bytes of storages are named, the file has {present:,}")


def _window(fd: int, size: int) -> Window:
    return Window(fd, 0, size, beyond="incomplete: a pickle runs past the end of the file")


def _note(persistent: Value | None, storages: dict[Value, int]) -> None:
    """Write down the bytes of the storage that a persistent id of torch names."""
    match persistent:
        case (b"storage", bytes(name), bytes() | int() as key, _, int(count), *_):
            element = _STORAGES.get(name.decode("latin-1").rpartition(" ")[2])
            if element is None or len(storages) == MAX_STORAGES:
                raise Undecided("its storages are of an unknown class, or too many")
            storages[key] = count * element
        case (b"module", *_):
            pass
        case _:
            raise Undecided("it names storages in an unknown way")


class _Walk:
    """
    Follows pickles one after the other, ``MAX_OPCODES`` in all.

    Args:
        on_persistent: Told each persistent id, as far as it is known.
    """

    def __init__(self, window: Window, on_persistent: Callable[[Value | None], None]) -> None:
        self._window = window
        self._on_persistent = on_persistent
        self._left = MAX_OPCODES
        self._stack: list[Value | None] = []
        self._marks: list[int] = []
        self._memo: dict[int, bytes] = {}
        self._memoized = 0

    def follow(self) -> None:
        """
        Go behind the STOP of the next pickle.

        Raises:
            Fault: It runs past the end of the file.
            Undecided: It is no pickle, or beyond ``MAX_*``.
        """
        self._stack, self._marks, self._memo, self._memoized = [], [], {}, 0
        while self._left:
            self._left -= 1
            opcode = _OPCODES.get(self._window.take(1)[0])
            if opcode is None:
                break
            argument = self._argument(opcode)
            if opcode.name == "STOP":
                return
            self._step(opcode, argument)
        raise Undecided("its opcodes cannot be followed to the end")

    def _argument(self, opcode: _Opcode) -> Value | None:
        if opcode.argument == 0:
            return None
        if opcode.argument > 0:
            return self._number(opcode.argument)
        if opcode.argument == pickletools.UP_TO_NEWLINE:
            line = self._line()
            return _class_name(line, self._line()) if opcode.name in ("GLOBAL", "INST") else None
        content = self._counted(self._number(_LENGTH_SIZES[opcode.argument]))
        if opcode.name == "LONG1" and content is not None:
            return int.from_bytes(content, "little")
        return content

    def _number(self, size: int) -> int:
        """Unsigned, as counts and places in the memo are."""
        return int.from_bytes(self._window.take(size), "little")

    def _counted(self, size: int) -> bytes | None:
        if size <= MAX_KEPT:
            return self._window.take(size)
        self._window.skip(size)
        return None

    def _line(self) -> bytes:
        line = bytearray()
        while (byte := self._window.take(1)) != b"\n":
            line += byte
            if len(line) > MAX_LINE:
                raise Undecided("it holds a line that does not end")
        return bytes(line)

    def _step(self, opcode: _Opcode, argument: Value | None) -> None:
        if opcode.name == "MARK":
            self._marks.append(len(self._stack))
        else:
            taken = self._pop(opcode)
            self._stack.extend([self._value(opcode.name, argument, taken)] * opcode.pushes)
        if len(self._stack) + len(self._marks) > MAX_STACK:
            raise Undecided("its stack grows too high")

    def _pop(self, opcode: _Opcode) -> list[Value | None]:
        """What the opcode works on: the values above the mark, or those it always takes."""
        stack = self._stack
        if opcode.to_mark:
            if not self._marks:
                raise Undecided("it lacks a mark")
            start = self._marks.pop()
            taken = stack[start:]
            del stack[start:]
            self._drop(opcode.pops)
            return taken
        taken = stack[len(stack) - opcode.pops :]
        self._drop(opcode.pops)
        return taken

    def _drop(self, count: int) -> None:
        height = len(self._stack) - count
        if height < (self._marks[-1] if self._marks else 0):
            raise Undecided("it takes more from its stack than there is")
        del self._stack[height:]

    def _value(self, name: str, argument: Value | None, taken: list[Value | None]) -> Value | None:
        """What the opcode pushes, as far as it is of interest; and what else it does."""
        if name in _CONSTANTS:
            return argument
        if name not in _FOLLOWED:
            return None
        match name, argument, taken:
            case "BINGET" | "LONG_BINGET", int(index), _:
                return self._memo.get(index)
            case "BINPUT" | "LONG_BINPUT", int(index), _:
                self._remember(index, self._stack[-1] if self._stack else None)
            case "MEMOIZE", _, [value]:
                self._remember(self._memoized, value)
                self._memoized += 1
                return value
            case "DUP", _, [value]:
                return value
            case "TUPLE", _, _ if len(taken) <= MAX_TUPLE:
                return tuple(None if isinstance(each, tuple) else each for each in taken)
            case "STACK_GLOBAL", _, [bytes(module), bytes(qualified)]:
                return _class_name(module, qualified)
            case "BINPERSID", _, [value]:
                self._on_persistent(value)
        return None

    def _remember(self, index: int, value: Value | None) -> None:
        if isinstance(value, bytes) and len(self._memo) < MAX_MEMO:
            self._memo[index] = value
        else:
            self._memo.pop(index, None)


def _class_name(module: bytes, qualified: bytes) -> bytes | None:
    if module.startswith(b"joblib"):
        raise Undecided("joblib writes arrays between its opcodes")
    name = module + b" " + qualified
    return name if len(name) <= MAX_KEPT else None
