"""
Checks whether a model file is structurally complete, with bounded parsers; nothing is loaded.

The extension claims a format and the content confirms it. File content is hostile input: no check
imports, unpickles, decompresses or executes anything, uses unbounded memory, or raises anything but
``OSError``.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

from syncd.ingest.formats.window import Fault, Undecided, read_at

SMALLEST = 16  # bytes; no model is smaller
_START = 512
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Structure:
    """
    The result of a structure check.

    ``complete`` is False if the file must not be uploaded. ``reason`` says what is wrong, or why nothing
    was checked. ``foreign`` means that the file is something else under the name of a model.
    """

    complete: bool
    reason: str | None
    format: str | None
    foreign: bool = False

    @property
    def sentence(self) -> str:
        return self.reason or f"complete: a whole {self.format} file"


@dataclass(frozen=True, slots=True)
class _Format:
    """A format; its parser is imported with the first such file to save memory."""

    name: str
    home: str
    function: str = "check"

    def check(self, fd: int, size: int) -> None:
        getattr(import_module(f"syncd.ingest.formats.{self.home}"), self.function)(fd, size)


_SAFETENSORS = _Format("safetensors", "safetensors")
_GGUF = _Format("gguf", "gguf")
_ONNX = _Format("onnx", "onnx")
_ZIP = _Format("zip", "archive")
_PICKLE = _Format("pickle", "pickles")
_LEGACY = _Format("torch legacy", "pickles", "check_legacy")

_BY_ENDING: Mapping[str, _Format | None] = {
    ".safetensors": _SAFETENSORS,
    ".sft": _SAFETENSORS,
    ".gguf": _GGUF,
    ".onnx": _ONNX,
    **dict.fromkeys((".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")),  # anything torch wrote
}


def check(fd: int, name: str, size: int) -> Structure:
    """
    Check whether the file is complete, as far as its structure shows; only ``OSError`` is raised.

    *fd* is neither moved nor closed. The last ending of *name* counts, in any case. *size* is that at
    opening.
    """
    ending = os.path.splitext(name)[1].lower()
    if ending not in _BY_ENDING:
        return Structure(True, "not checked: not the name of a weights file", None)
    start = read_at(fd, 0, min(size, _START))
    if start.startswith(_LFS_POINTER):
        reason = "this is a git-LFS pointer, not the model: run git lfs pull"
        return Structure(False, reason, None, foreign=True)
    if size < SMALLEST:
        return Structure(False, f"incomplete: {size:,} bytes are too few for a model", None)
    claimed = _BY_ENDING[ending] or _by_content(start)
    if claimed is None:
        return _page(start) or Structure(True, "not checked: no format that can be checked", None)
    return _checked(claimed, fd, size, start)


def is_model(fd: int, size: int, structure: Structure) -> bool:
    """
    Return whether the content of a complete file, not only its name, is that of a model.

    Many programs write zip archives, for example as documents. All other formats are of models.
    """
    if structure.format != _ZIP.name:
        return structure.format is not None
    from syncd.ingest.formats.archive import is_torch

    with suppress(Fault):  # it may have changed since the check
        return is_torch(fd, size)
    return False


def _checked(claimed: _Format, fd: int, size: int, start: bytes) -> Structure:
    try:
        claimed.check(fd, size)
    except Undecided as undecided:
        return Structure(True, f"not checked: {undecided}", claimed.name)
    except Fault as fault:
        # Only now: the length at the start of a whole safetensors file may look like a page.
        return _page(start) or Structure(False, str(fault), claimed.name)
    return Structure(True, None, claimed.name)


def _by_content(start: bytes) -> _Format | None:
    if start.startswith(b"PK"):
        return _ZIP
    if start[0] == 0x80 and 2 <= start[1] <= 5:  # PROTO and a protocol that exists
        from syncd.ingest.formats.pickles import is_legacy

        return _LEGACY if is_legacy(start) else _PICKLE
    return _GGUF if start.startswith(b"GGUF") else None


def _page(start: bytes) -> Structure | None:
    """Return the verdict on a web page or error message that was saved under the name of a model."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    page = {b"<": "web page", b"{": "error message (JSON)"}.get(text[:1])
    if page is None or _BINARY.search(text):
        return None
    reason = f"this is a saved {page}, not the model: download it again"
    return Structure(False, reason, None, foreign=True)


_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
