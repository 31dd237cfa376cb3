"""
safetensors: does the file reach as far as the largest ``data_offsets``?

Eight bytes of header length, a JSON object, the tensors. Files longer than needed load in ComfyUI,
so they are whole here although the official reader refuses them; of a name given twice the larger
end counts.
"""

import re

from syncd.ingest.formats.jsontext import INTEGER, PLAIN, REPEATED, SIMPLE, SPACE, JsonText
from syncd.ingest.formats.window import Fault, read_at

MAX_HEADER = 100_000_000
"""Bytes; the official reader's limit."""

_MEMBER = (
    rf'(?!"data_offsets"){PLAIN}{SPACE}:{SPACE}'
    rf"(?:{SIMPLE}|\[{SPACE}(?:{INTEGER}{SPACE}(?>(?:,{SPACE}{INTEGER}{SPACE}){REPEATED}))?\])"
)
_USUAL = re.compile(
    rf'{SPACE},{SPACE}(?!"__metadata__"){PLAIN}{SPACE}:{SPACE}\{{{SPACE}'
    rf"(?>(?:{_MEMBER}{SPACE},{SPACE}){REPEATED})"
    rf'"data_offsets"{SPACE}:{SPACE}'
    rf"\[{SPACE}({INTEGER}){SPACE},{SPACE}({INTEGER}){SPACE}\]{SPACE}"
    rf"(?>(?:,{SPACE}{_MEMBER}{SPACE}){REPEATED})\}}"
)
"""A tensor as all known writers put it, with the comma before it: one match, not 26 tokens."""


def check(fd: int, size: int) -> None:
    """
    Is the header a JSON object of tensors, and does the last one end within the file?

    Raises:
        Fault: It is not, or does not, or is longer than ``MAX_HEADER``.
        OSError: The file cannot be read.
    """
    length = int.from_bytes(read_at(fd, 0, 8), "little")
    if length > MAX_HEADER:
        raise Fault(f"damaged: a safetensors header of {length:,} bytes cannot be")
    data = 8 + length
    if data > size:
        raise Fault(f"incomplete: the header takes {data:,} bytes, the file has {size:,}")
    end = _last_end(JsonText(fd, 8, data))
    if data + end > size:
        raise Fault(
            f"incomplete: header says {end:,} bytes of tensors, the file has {size - data:,}"
        )


def _last_end(header: JsonText) -> int:
    """The largest end of a tensor, in bytes after the header."""
    last = 0
    for name in header.members():
        if name == "__metadata__":
            header.skip_value()
        else:
            last = max(last, _tensor_end(header))
        for usual in header.run(_USUAL):
            last = max(last, _end_of(int(usual[1]), int(usual[2])))
    header.finish()
    return last


def _tensor_end(header: JsonText) -> int:
    ends = []
    for key in header.members():
        if key == "data_offsets":
            ends.append(_end_of(*header.integers()))
        else:
            header.skip_value()
    if not ends:
        raise Fault("damaged: the header has a tensor without data_offsets")
    return max(ends)


def _end_of(begin: int, end: int) -> int:
    if begin > end:
        raise Fault(f"damaged: the header has a tensor from {begin:,} to {end:,}")
    return end
