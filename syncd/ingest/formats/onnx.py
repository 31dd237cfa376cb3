"""
Checks that the fields of an ONNX file's outermost message fill the file exactly.

The file is one ``ModelProto`` (``onnx.proto3``) in protobuf's wire format: tags and lengths, without
an end mark. A graph is one field however large it is, so the scan is short. What is cut between two
fields behind the operator sets, the last required part, cannot be distinguished from a whole file.
"""

from collections.abc import Mapping

from syncd.ingest.formats.window import Fault, Window

MAX_FIELDS = 100_000  # outermost: a handful, and one for each function and property

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_IR_VERSION, _GRAPH, _OPERATOR_SETS = 1, 7, 8
_FIRST_WITH_OPERATOR_SETS = 3
_KNOWN: Mapping[int, int] = {
    _IR_VERSION: _VARINT, 2: _BYTES, 3: _BYTES, 4: _BYTES, 5: _VARINT, 6: _BYTES, _GRAPH: _BYTES,
    _OPERATOR_SETS: _BYTES, 14: _BYTES, 20: _BYTES, 25: _BYTES, 26: _BYTES,
}  # fmt: skip
"""Field number -> wire type."""


def check(fd: int, size: int) -> None:
    """Raise ``Fault`` unless the fields end where the file ends and one of them is a graph."""
    window = Window(fd, 0, size, beyond="incomplete: the onnx model runs past the end of the file")
    needed = {_GRAPH: "graph", _OPERATOR_SETS: "operator sets"}
    for _ in range(MAX_FIELDS):
        if window.position == size:
            break
        number, value = _field(window)
        needed.pop(number, None)
        if number == _IR_VERSION and value < _FIRST_WITH_OPERATOR_SETS:
            needed.pop(_OPERATOR_SETS, None)
    else:
        raise Fault(f"damaged: the onnx model has more than {MAX_FIELDS:,} fields")
    if needed:
        raise Fault(f"incomplete: the onnx model has no {' and no '.join(needed.values())}")


def _field(window: Window) -> tuple[int, int]:
    """Return number and value of the next field; for a field of bytes their count, and skip them."""
    tag = _varint(window)
    number, wire = tag >> 3, tag & 7
    if number == 0 or _KNOWN.get(number, wire) != wire:
        raise Fault("damaged: this is not an onnx model")
    if wire in (_VARINT, _BYTES):
        value = _varint(window)
    elif wire in (_FIXED32, _FIXED64):
        value = int.from_bytes(window.take(4 if wire == _FIXED32 else 8), "little")
    else:
        raise Fault("damaged: this is not an onnx model")
    if wire == _BYTES:
        window.skip(value)
    return number, value


def _varint(window: Window) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = window.take(1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise Fault("damaged: this is not an onnx model")
