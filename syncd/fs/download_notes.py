"""
The SHA-256 that a download was expected to have, where the program that fetched it left a note.

The hub client (``huggingface_hub`` with ``local_dir``) writes one beside what it downloads: under the
directory it was given, ``.cache/huggingface/download/<path in the repository>.metadata`` holds the
commit, the etag (for large files their SHA-256) and the Unix time of the note, a line each. The
directory may be any folder above the file, so all are tried. The note is anybody's text: it is
never used instead of hashing.
"""

import os
import re
from collections.abc import Iterator

_NOTES = os.path.join(".cache", "huggingface", "download")
_LARGEST = 4096

_NOTE = re.compile(rb"[^\n]*\n([0-9a-fA-F]{64})\r?\n([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*")
_SLACK_S = 1.0
"""As much younger than its note a file may be, as in the hub client: clocks of file systems are coarse."""


def expected_sha256(root: str, rel_path: str) -> str | None:
    """
    The SHA-256 (64 lower-case hex digits) noted for a file, unless the file was written since.

    Unreadable, malformed and outdated notes are as good as none; so is a *rel_path* that leaves
    *root*. The layout is that of ``huggingface_hub/_local_folder.py``.
    """
    parts = rel_path.split("/")
    if not all(parts) or ".." in parts:
        return None
    try:
        modified_s = os.stat(os.path.join(root, rel_path)).st_mtime
    except (OSError, ValueError):
        return None
    for path in _note_paths(root, parts):
        note = _NOTE.fullmatch(_content(path))
        if note is not None and modified_s - _SLACK_S <= float(note[2]):
            return note[1].decode("ascii").lower()
    return None


def _note_paths(root: str, parts: list[str]) -> Iterator[str]:
    """Where a note may be, from the file's own folder up to the root."""
    for depth in reversed(range(len(parts))):
        folder, below = parts[:depth], parts[depth:]
        yield os.path.join(root, *folder, _NOTES, *below) + ".metadata"


def _content(path: str) -> bytes:
    """The note at *path*; nothing where there is none, or something that cannot be one."""
    try:
        # O_NONBLOCK: a FIFO under this name must not hang the thread.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(fd, _LARGEST)
    except OSError:
        return b""
    finally:
        os.close(fd)


def mismatch(expected: str) -> str:
    """Why a file is not taken that should have another SHA-256, as its download's note says."""
    return (
        f"incomplete or damaged: its download was to have the SHA-256 {expected}, and it has "
        "another. Download it again, or if it was edited on purpose, touch it"
    )
