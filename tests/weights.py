"""Model files made for a test: noise behind a header as the safetensors format has it."""

import hashlib
import json
import os
from pathlib import Path

MIB = 1024 * 1024
HEADER = 128
"""Bytes before the tensor; the format lets a header end in spaces."""

SMALLEST = 16
"""Bytes; nothing shorter can be a model."""


def weights(content: bytes) -> bytes:
    """A whole file with *content* for its tensor, ``HEADER`` bytes longer; ``*.pt`` may hold it too."""
    return _header(HEADER + len(content)) + content


def is_torn(name: str, content: bytes) -> bool:
    """Does something made by ``weights`` lack a piece, as far as anybody can tell under this name?"""
    if not name.endswith(".safetensors"):
        return len(content) < SMALLEST
    try:
        header = json.loads(content[8:HEADER])
    except ValueError:  # cut within the header, whatever came after
        return True
    return len(content) < HEADER + int(header["weight"]["shape"][0])


def write_safetensors(path: Path, size: int) -> Path:
    """Write a whole file of *size* bytes; no two of its MiB are alike, nor are two files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = os.urandom(min(size, MIB))
    with path.open("wb") as file:
        file.write(_header(size))
        left = size - HEADER
        while left > 0:
            left -= file.write((left.to_bytes(8, "little") + noise[8:])[:left])
    return path


def sha256_of(path: Path) -> str:
    """64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(size: int) -> bytes:
    data = size - HEADER
    assert data > 0, "room for the header and a byte"
    tensor = {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}
    text = json.dumps({"weight": tensor}).encode().ljust(HEADER - 8)
    return len(text).to_bytes(8, "little") + text
