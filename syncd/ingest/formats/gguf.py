"""
Checks that a GGUF file (version 2 or 3) contains its last tensor.

The layout is that of ggml's ``docs/gguf.md``: magic, version, counts, key-value pairs, tensor
descriptions, then the tensors, each aligned. Big-endian files are not checked.
"""

import math
from collections.abc import Iterator, Mapping
from struct import Struct

from syncd.ingest.formats.window import WINDOW, Fault, Undecided, Window

MAX_HEADER = 100_000_000  # bytes; the largest tokenizers in use take a fifth of it
MAX_ITEMS = 2_000_000  # pairs, array elements that must be read, and tensors
MAX_NAME = 65_535
MAX_DIMENSIONS = 8

TENSOR_TYPES: Mapping[int, tuple[int, int]] = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1, as the gguf package has it
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}
"""Tensor type -> elements in a block, bytes of a block."""

_U32, _U64 = Struct("<I"), Struct("<Q")
_TENSOR_ENDS = [Struct(f"<{n}QIQ") for n in range(MAX_DIMENSIONS + 1)]

_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALARS: Mapping[int, int] = {
    0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8,
}  # fmt: skip
"""Value type -> bytes."""


def check(fd: int, size: int) -> None:
    """
    Raise ``Fault`` unless the aligned end of the last tensor is within the file.

    Undecided: A tensor has a type of unknown size.
    """
    header = _Header(fd, size)
    tensors, pairs = header.uint64(), header.uint64()
    header.spend(tensors + pairs)
    alignment = _alignment(header, pairs)
    end, unknown = 0, None
    for kind, elements, offset in header.tensors(tensors):
        block, size_of_block = TENSOR_TYPES.get(kind, (1, 0))
        end = max(end, offset + elements * size_of_block // block)
        if size_of_block == 0:
            unknown = kind
    data = _align(header.position, alignment) if tensors else header.position
    if data + _align(end, alignment) > size:
        raise Fault(
            f"incomplete: header says {_align(end, alignment):,} bytes of tensors, "
            f"the file has {max(size - data, 0):,}"
        )
    if unknown is not None:
        raise Undecided(f"the size of tensor type {unknown} is not known")


def _alignment(header: "_Header", pairs: int) -> int:
    alignment = 32
    for _ in range(pairs):
        key, kind = header.string(), header.uint32()
        if key == b"general.alignment" and kind == _UINT32:
            alignment = header.uint32()
        else:
            header.skip_value(kind)
    if alignment == 0 or alignment & (alignment - 1):
        raise Fault(f"damaged: gguf alignment {alignment:,} is not a power of two")
    return alignment


def _align(count: int, alignment: int) -> int:
    return -(-count // alignment) * alignment


class _Header:
    """Reads the parts of a GGUF header; ``spend`` bounds their number."""

    def __init__(self, fd: int, size: int) -> None:
        beyond = "incomplete: the gguf header runs past the end of the file"
        if size > MAX_HEADER:
            beyond = f"damaged: the gguf header is longer than {MAX_HEADER:,} bytes"
        self._window = Window(fd, 0, min(size, MAX_HEADER), beyond=beyond)
        self._left = MAX_ITEMS
        if self._window.take(4) != b"GGUF":
            raise Fault("damaged: this is not a gguf file, its first bytes are not GGUF")
        version = self.uint32()
        if version in (2 << 24, 3 << 24):
            raise Undecided("its numbers are big-endian")
        if version not in (2, 3):
            raise Fault(f"damaged: gguf version {version:,}, where 2 and 3 can be read")

    @property
    def position(self) -> int:
        return self._window.position

    def spend(self, items: int) -> None:
        self._left -= items
        if self._left < 0:
            raise Fault(f"damaged: the gguf header lists more than {MAX_ITEMS:,} things")

    def uint32(self) -> int:
        return int(self._unpack(_U32)[0])

    def uint64(self) -> int:
        return int(self._unpack(_U64)[0])

    def string(self) -> bytes:
        length = self.uint64()
        if length > MAX_NAME:
            raise Fault(f"damaged: a name in the gguf header has {length:,} bytes")
        return self._window.take(length)

    def skip_value(self, kind: int) -> None:
        if kind == _ARRAY:
            kind, count = self.uint32(), self.uint64()
            if kind == _STRING:
                self._skip_strings(count)
            elif kind == _ARRAY:
                raise Undecided("its header contains arrays of arrays")
            else:
                self._window.skip(_size_of(kind) * count)
        else:
            self._window.skip(self.uint64() if kind == _STRING else _size_of(kind))

    def tensors(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield type, number of elements, and offset in the tensor data."""
        for _ in range(count):
            self.string()
            dimensions = self.uint32()
            if dimensions > MAX_DIMENSIONS:
                raise Fault(f"damaged: a tensor in the gguf header has {dimensions:,} dimensions")
            *shape, kind, offset = self._unpack(_TENSOR_ENDS[dimensions])
            yield kind, math.prod(shape), offset

    def _skip_strings(self, count: int) -> None:
        """Skip the bulk of a header with a tokenizer: a loop without calls, for speed."""
        self.spend(count)
        window, length_at = self._window, _U64.unpack_from
        while count:
            start = index = window.at(8)
            buffer, last = window.buffer, len(window.buffer) - 8
            while count and index <= last:
                index += 8 + length_at(buffer, index)[0]
                count -= 1
            window.skip(index - start)

    def _unpack(self, form: Struct) -> tuple[int, ...]:
        index = self._window.at(form.size)
        self._window.position += form.size
        return form.unpack_from(self._window.buffer, index)


def _size_of(kind: int) -> int:
    if kind not in _SCALARS:
        raise Fault(f"damaged: there is no value type {kind:,} in gguf")
    return _SCALARS[kind]


assert MAX_NAME < WINDOW
