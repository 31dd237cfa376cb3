"""
Checks that a safetensors file contains everything up to its largest ``data_offsets``.

ComfyUI loads files that are longer than needed, so they are complete here although the official reader
refuses them. If a name occurs twice, the larger end counts.
"""

from typing import Any, NamedTuple

from syncd.ingest.formats.window import Fault, load_json, read_at

MAX_HEADER = 100_000_000  # bytes; the official reader's limit

_NOT_TENSORS = "damaged: the header is not a JSON object of tensors"


class _Object(NamedTuple):
    """
    What a JSON object says about tensors; -1 where it says nothing.

    ``end`` is its own ``data_offsets`` end, ``last_end`` the largest end of its members if all of them,
    except ``__metadata__``, describe tensors.
    """

    end: int
    last_end: int


def check(fd: int, size: int) -> None:
    """Raise ``Fault`` unless the header describes tensors and the file contains all of them."""
    length = int.from_bytes(read_at(fd, 0, 8), "little")
    if length > MAX_HEADER:
        raise Fault(f"damaged: a safetensors header of {length:,} bytes is not possible")
    data = 8 + length
    if data > size:
        raise Fault(f"incomplete: the header takes {data:,} bytes, the file has {size:,}")
    if not read_at(fd, 8, min(length, 64)).lstrip(b" \t\n\r").startswith(b"{"):
        raise Fault(_NOT_TENSORS)  # also where the rest is too large to be parsed
    header = load_json(fd, 8, length, object_pairs_hook=_reduce)
    if not isinstance(header, _Object) or header.last_end < 0:
        raise Fault(_NOT_TENSORS)
    end = header.last_end
    if data + end > size:
        raise Fault(
            f"incomplete: header says {end:,} bytes of tensors, the file has {size - data:,}"
        )


def _reduce(members: list[tuple[str, Any]]) -> _Object:
    """Replace an object, as soon as it is parsed, by the few bytes that matter."""
    end, last_end = -1, 0
    for name, value in members:
        if name == "data_offsets":
            end = max(end, _end(value))
        if name != "__metadata__" and last_end >= 0:
            is_tensor = type(value) is _Object and value.end >= 0
            last_end = max(last_end, value.end) if is_tensor else -1
    return _Object(end, last_end)


def _end(offsets: object) -> int:
    """Return the end of a pair of offsets, or -1 if it is not one."""
    if isinstance(offsets, list) and [type(offset) for offset in offsets] == [int, int]:
        begin, end = offsets
        if 0 <= begin <= end:
            return int(end)
    return -1
