"""A small models tree, what programs do to it, and every version that each path ever had."""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from syncd.types import HintKind
from tests.weights import HEADER, is_torn, weights

FOLDERS = ("loras", "checkpoints", "vae/old")
NAMES = ("a.safetensors", "b.pt", "c.ckpt")
PATHS = tuple(f"{folder}/{name}" for folder in FOLDERS for name in NAMES)


class _Content(NamedTuple):
    """What a path holds; torn: it lacks a piece, and that can be seen."""

    sha256: str
    size: int
    torn: bool


OnChange = Callable[[str, HintKind], None]
"""Receives a kernel event for a path; the hint may get lost."""


class Tree:
    """
    Files below *root*, all of them wanted by their names.

    Args:
        draw: What is written, and where.
        now_ns: What files are stamped with, Unix nanoseconds.
        on_change: Called for every change.
        sizes: Sizes to choose from, bytes.
        paths: Where files may be.

    ``versions`` holds, by model_path, the SHA-256 of every content that a path ever had between
    two writes, and that was whole: what a cut tore must never be registered.
    """

    def __init__(
        self,
        root: Path,
        draw: random.Random,
        now_ns: Callable[[], int],
        on_change: OnChange,
        sizes: tuple[int, ...],
        paths: tuple[str, ...] = PATHS,
    ) -> None:
        self.root = root
        self.versions: dict[str, set[str]] = {}
        self._now: dict[str, _Content] = {}
        self._draw = draw
        self._now_ns = now_ns
        self._on_change = on_change
        self._sizes = sizes
        self._paths = paths
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)

    def paths(self) -> list[str]:
        """The files that are there."""
        return list(self._now)

    def still(self, largest: int | None) -> dict[str, str]:
        """SHA-256 by model_path, as things are, of whole files of at most *largest* bytes."""
        return {
            model_path(path): content.sha256
            for path, content in self._now.items()
            if not content.torn and (largest is None or content.size <= largest)
        }

    def fill(self) -> None:
        """A file at every path."""
        for path in self._paths:
            if path not in self._now:
                self._create(path)

    def change(self) -> str:
        """Do one thing to one file; what it was."""
        path = self._draw.choice(self._paths)
        if path not in self._now:
            self._create(path)
            return f"create {path}"
        name, operation = self._draw.choice(self._operations())
        operation(path)
        return f"{name} {path}"

    def disturb(self, path: str) -> None:
        """Change a file that is being read."""
        if path in self._now:
            self._draw.choice([self._grow, self._rewrite, self._replace, self._sneak])(path)

    def _operations(self) -> list[tuple[str, Callable[[str], None]]]:
        return [
            ("grow", self._grow),
            ("rewrite", self._rewrite),
            ("replace", self._replace),
            ("truncate", self._truncate),
            ("rename", self._rename),
            ("delete", self._delete),
            ("touch", self._touch),
            ("chmod", self._chmod),
            ("sneak", self._sneak),
            ("sneak", self._sneak),
        ]

    def _create(self, path: str) -> None:
        (self.root / path).write_bytes(self._bytes())
        self._changed(path, HintKind.CLOSED)

    def _grow(self, path: str) -> None:
        with (self.root / path).open("ab") as file:
            file.write(self._draw.randbytes(self._draw.randint(1, 3000)))
        self._changed(path, HintKind.CLOSED)

    def _rewrite(self, path: str) -> None:
        (self.root / path).write_bytes(self._bytes())
        self._changed(path, HintKind.CLOSED)

    def _replace(self, path: str) -> None:
        fresh = self.root / f"{path}.tmp"
        fresh.write_bytes(self._bytes())
        fresh.replace(self.root / path)
        self._changed(path, HintKind.MOVED)

    def _truncate(self, path: str) -> None:
        size = (self.root / path).stat().st_size
        os.truncate(self.root / path, self._draw.randint(1, size))
        self._changed(path, HintKind.CLOSED)

    def _rename(self, path: str) -> None:
        to = self._draw.choice(self._paths)
        (self.root / path).rename(self.root / to)
        if to != path:
            self._gone(path)
        self._noted(to)
        self._on_change(to, HintKind.MOVED)

    def _delete(self, path: str) -> None:
        (self.root / path).unlink()
        self._gone(path)

    def _gone(self, path: str) -> None:
        del self._now[path]
        self._on_change(path, HintKind.DELETED)

    def _touch(self, path: str) -> None:
        self._changed(path, HintKind.CLOSED)

    def _chmod(self, path: str) -> None:
        self._until_ctime_moves(path, (self.root / path).stat())

    def _sneak(self, path: str) -> None:
        """Other bytes, the same size, and the old modification time: only ctime tells."""
        file = self.root / path
        before = file.stat()
        with file.open("r+b") as stream:
            stream.seek(self._draw.randrange(min(HEADER, before.st_size - 1), before.st_size))
            stream.write(self._draw.randbytes(1))
            stream.truncate(before.st_size)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        self._until_ctime_moves(path, before)
        self._noted(path)
        self._on_change(path, HintKind.CLOSED)

    def _until_ctime_moves(self, path: str, before: os.stat_result) -> None:
        # The kernel stamps in steps of some milliseconds, in which simulated minutes pass.
        file = self.root / path
        mode = before.st_mode & 0o777
        while file.stat().st_ctime_ns == before.st_ctime_ns:
            file.chmod(mode ^ 0o100)
            file.chmod(mode)

    def _changed(self, path: str, kind: HintKind) -> None:
        now_ns = self._now_ns()
        os.utime(self.root / path, ns=(now_ns, now_ns))
        self._noted(path)
        self._on_change(path, kind)

    def _noted(self, path: str) -> None:
        data = (self.root / path).read_bytes()
        content = _Content(hashlib.sha256(data).hexdigest(), len(data), is_torn(path, data))
        if not content.torn:
            self.versions.setdefault(model_path(path), set()).add(content.sha256)
        self._now[path] = content

    def _bytes(self) -> bytes:
        return weights(self._draw.randbytes(self._draw.choice(self._sizes) - HEADER))


def model_path(path: str) -> str:
    """Where a path goes in the catalog."""
    return f"models/{path}"
