"""
Reads the SHA-256 that the download program expected, from the note that it left beside a file.

``huggingface_hub`` with ``local_dir`` writes such notes: below that directory,
``.cache/huggingface/download/<path in the repository>.metadata`` contains the commit, the etag (the
SHA-256 of a large file) and the Unix time of the note, one per line. The directory may be any folder
above the file, so all of them are tried. Anyone can write a note, so it never replaces hashing.
"""

import os
import re
from collections.abc import Iterator

_NOTES = os.path.join(".cache", "huggingface", "download")
_LARGEST = 4096

_NOTE = re.compile(rb"[^\n]*\n([0-9a-fA-F]{64})\r?\n([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*")
_SLACK_S = 1.0
"""How much newer than its note a file may be, as in the hub client: file system clocks are coarse."""


def expected_sha256(root: str, rel_path: str) -> str | None:
    """
    Return the SHA-256 (64 lower-case hex digits) noted for a file that was not written since.

    Unreadable, malformed and outdated notes are ignored; None as well for a *rel_path* that leaves
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
    """Yield the possible paths of the note, from the file's own folder up to the root."""
    for depth in reversed(range(len(parts))):
        folder, below = parts[:depth], parts[depth:]
        yield os.path.join(root, *folder, _NOTES, *below) + ".metadata"


def _content(path: str) -> bytes:
    """Read the note at *path*; empty if it cannot be read."""
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
    """The reason to refuse a file whose SHA-256 differs from its download note."""
    return (
        f"incomplete or damaged: its SHA-256 is not {expected}, which its download note names. "
        "Download it again, or, if you edited it on purpose, run touch on it"
    )
