"""
Reads the SHA-256 that the download program expected, from the note that it left beside a file.

``huggingface_hub`` with ``local_dir`` writes ``.cache/huggingface/download/<path>.metadata`` below that
directory: the commit, the etag (the SHA-256 of a large file) and the Unix time of the note, one per line.
The directory may be any folder above the file. Anyone can write a note, so it never replaces hashing.
"""

import os
import re

_NOTES = os.path.join(".cache", "huggingface", "download")
_LARGEST = 4096

_NOTE = re.compile(rb"[^\n]*\n([0-9a-fA-F]{64})\r?\n([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*")
_SLACK_S = 1.0  # how much newer than its note a file may be: file system clocks are coarse


def expected_sha256(root: str, rel_path: str) -> str | None:
    """
    Return the SHA-256 (64 lower-case hex digits) noted for a file that was not written since.

    None if there is no valid and current note, or if *rel_path* leaves *root*. See
    ``huggingface_hub/_local_folder.py``.
    """
    parts = rel_path.split("/")
    if not all(parts) or ".." in parts:
        return None
    try:
        modified_s = os.stat(os.path.join(root, rel_path)).st_mtime
    except (OSError, ValueError):
        return None
    for depth in reversed(range(len(parts))):  # the file's own folder first
        path = os.path.join(root, *parts[:depth], _NOTES, *parts[depth:]) + ".metadata"
        note = _NOTE.fullmatch(_content(path))
        if note is not None and modified_s - _SLACK_S <= float(note[2]):
            return note[1].decode("ascii").lower()
    return None


def _content(path: str) -> bytes:
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
    """Return the reason to refuse a file whose SHA-256 differs from its download note."""
    return (
        f"incomplete or damaged: its SHA-256 is not {expected}, which its download note names. "
        "Download it again, or, if you edited it on purpose, run touch on it"
    )
