"""
Scans a models tree and finds the files in it.

Folders are opened relative to their parent's descriptor, and each file costs one ``stat``, so a scan costs
little more than its system calls. Names may be any bytes: ``os.fsdecode`` decodes them.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Literal

from syncd.core.files.naming import ENDINGS, ending_of, is_within, never_enter, owner_of
from syncd.types import Fingerprint, FoundFile, StatKey

Symlinks = Literal["follow", "within_roots", "skip"]
"""Which links are followed: all, as ComfyUI does; those that stay inside a root; none."""

Problem = Callable[[str, OSError], None]
"""Called with a rel_path that could not be read, so nothing at or below it is known, and the error."""

DEPTH_MAX = 64  # nested folders; each holds a descriptor
BLOCK = 512  # bytes: the unit of ``st_blocks`` on every file system
BATCH_MAX = 1000  # files of one ``FileBatch``

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO waits for a writer.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

# The file does not exist, or cannot be a model: a dangling link, a socket.
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO))

# What os.fsencode uses: a call per file would cost too much.
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

_Named = tuple[bytes, os.DirEntry[str]]  # the sort key of an entry, and the entry


class DanglingLink(FileNotFoundError):
    """A link to a folder that does not exist; not reported if a pattern excludes it."""

    def __init__(self) -> None:
        super().__init__(
            errno.ENOENT, "a link to a folder that does not exist; is its disk mounted?"
        )


@dataclass(frozen=True, slots=True)
class _Folder:
    """An open folder. ``path`` ends with a slash, or is empty for the root; ``key`` is its bytes."""

    fd: int
    path: str
    key: bytes
    identity: tuple[int, int]


@dataclass(slots=True)
class FileBatch:
    """
    1 to ``BATCH_MAX`` files of one folder, consecutive in path order.

    ``keys`` show whether the files changed since the last scan, so that a ``FoundFile`` is built only for
    files that changed.
    """

    root_id: int
    keys: list[StatKey] = field(default_factory=list)
    devices: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def add(self, path: bytes, found: os.stat_result) -> None:
        self.keys.append(
            (path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, str(found.st_ino))
        )
        self.devices.append(found.st_dev)
        self.blocks.append(found.st_blocks)

    def files(self) -> Iterator[FoundFile]:
        for key, dev, blocks in zip(self.keys, self.devices, self.blocks, strict=True):
            path, size, mtime_ns, ctime_ns, inode = key
            fingerprint = Fingerprint(dev, int(inode), size, mtime_ns, ctime_ns)
            yield FoundFile(self.root_id, os.fsdecode(path), fingerprint, blocks * BLOCK)


def files_in(batches: Iterable[FileBatch]) -> Iterator[FoundFile]:
    return (file for batch in batches for file in batch.files())


def scan(
    root: str,
    root_id: int,
    *,
    below: str = "",
    symlinks: Symlinks = "follow",
    roots: Collection[str] = (),
    problem: Problem,
    on_link: Callable[[str], None] = lambda rel_path: None,
) -> Iterator[FileBatch]:
    """
    Yield every regular file at or below ``root/below``, in the byte order of the whole path.

    A cycle of links is entered once. A folder that two links lead to counts as two folders, as in ComfyUI.
    Folders for which ``naming.never_enter`` is true are skipped.

    *problem* is called for what cannot be read, before any path that sorts after it is yielded, because
    the files there are unknown and not absent. It is also called for a dangling link, unless the link is
    named like a model, and with the empty path for a missing root.

    Args:
        below: A folder below *root*; if it does not exist, nothing is yielded.
        roots: Further directories that links may lead into under ``within_roots``.
        on_link: Called with the rel_path of each folder that is entered through a link.
    """
    tree = _Tree(symlinks, _resolved(root, roots), problem, on_link)
    try:
        pending = [tree.listing()] if tree.descend(root, below) else []
        while pending:
            entered = yield from _folder_batches(tree, root_id, pending[-1])
            if entered:
                pending.append(tree.listing())
            else:
                pending.pop()
                tree.leave()
    finally:
        tree.close()


def _folder_batches(
    tree: "_Tree", root_id: int, listing: list[_Named]
) -> Generator[FileBatch, None, bool]:
    """Consume *listing* up to the next folder and enter it; return False at the end of the listing."""
    here, batch = tree.chain[-1].key, FileBatch(root_id)
    entered = False
    while listing and not entered:  # popped, so that only one batch of stats is in memory
        name, entry = listing.pop()
        if name.endswith(b"/"):
            entered = tree.enter(entry.name, linked=entry.is_symlink())
        elif (found := tree.stat(entry)) is not None:
            batch.add(here + name, found)
            if len(batch.keys) == BATCH_MAX:
                yield batch
                batch = FileBatch(root_id)
    if batch.keys:
        yield batch
    return entered


class _Tree:
    """The open folders from the root to the current one, and the rules for entering others."""

    def __init__(
        self,
        symlinks: Symlinks,
        roots: list[str],
        problem: Problem,
        on_link: Callable[[str], None],
    ) -> None:
        self.chain: list[_Folder] = []
        self._symlinks = symlinks
        self._roots = roots
        self._problem = problem
        self._on_link = on_link

    def descend(self, root: str, below: str) -> bool:
        try:
            fd = os.open(root, _FOLDER)
        except OSError as error:
            self._problem("", error)
            return False
        self.chain.append(_Folder(fd, "", b"", _identity(fd)))
        return all(self.enter(name) for name in below.split("/") if name)

    def enter(self, name: str, *, linked: bool = False) -> bool:
        """Enter the subfolder *name* of the current folder; return False if that is not possible."""
        if never_enter(name):
            return False
        path = self.chain[-1].path + name
        try:
            if len(self.chain) > DEPTH_MAX:
                raise OSError(errno.ENAMETOOLONG, f"more than {DEPTH_MAX} folders deep")
            fd = os.open(name, _FOLDER, dir_fd=self.chain[-1].fd)
        except OSError as error:
            self._report(path, error)
            return False
        entered = self._keep(fd, path)
        if entered and linked:
            self._on_link(path)
        return entered

    def _keep(self, fd: int, path: str) -> bool:
        identity = _identity(fd)
        cycle = any(above.identity == identity for above in self.chain)
        if cycle or not _allowed(fd, path, self._symlinks, self._roots):
            os.close(fd)
            return False
        self.chain.append(_Folder(fd, path + "/", os.fsencode(path + "/"), identity))
        return True

    def listing(self) -> list[_Named]:
        """Return the entries in reverse order; the key of a folder ends with a slash."""
        folder = self.chain[-1]
        try:
            with os.scandir(folder.fd) as entries:
                named = [(_key(entry), entry) for entry in entries]
        except OSError as error:
            self._problem(folder.path.rstrip("/"), error)
            return []
        named.sort(key=itemgetter(0), reverse=True)
        return named

    def stat(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        try:
            linked = entry.is_symlink()
            found = self._behind(entry) if linked else entry.stat(follow_symlinks=False)
        except OSError as error:
            if entry.is_symlink() and error.errno in _ABSENT:
                self._report_link(entry.name)
            else:
                self._report(self.chain[-1].path + entry.name, error)
            return None
        return found if found is not None and stat.S_ISREG(found.st_mode) else None

    def _behind(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        """Return the status of the target of the link *entry*; None if it must not be followed."""
        if self._symlinks == "follow":
            return entry.stat()
        fd = os.open(entry.name, os.O_PATH | os.O_CLOEXEC, dir_fd=self.chain[-1].fd)
        try:
            path = self.chain[-1].path + entry.name
            return os.fstat(fd) if _allowed(fd, path, self._symlinks, self._roots) else None
        finally:
            os.close(fd)

    def _report_link(self, name: str) -> None:
        if self._symlinks == "skip" or never_enter(name) or ending_of(name) in ENDINGS:
            return
        path = self.chain[-1].path + name
        target = os.path.realpath(os.path.join(self._roots[0], path))
        if self._symlinks == "follow" or is_within(target, {r.rstrip("/") for r in self._roots}):
            self._problem(path, DanglingLink())

    def _report(self, path: str, error: OSError) -> None:
        if error.errno not in _ABSENT:
            self._problem(path, error)

    def leave(self) -> None:
        os.close(self.chain.pop().fd)

    def close(self) -> None:
        while self.chain:
            self.leave()


def find_file(
    root: str,
    root_id: int,
    rel_path: str,
    *,
    symlinks: Symlinks = "follow",
    roots: Collection[str] = (),
) -> FoundFile | None:
    """
    Return the regular file at one path; None if there is none, or links to it must not be followed.

    The file is opened, so that NFS asks its server instead of its cache. Raises OSError.
    """
    path = os.path.join(root, rel_path)
    try:
        try:
            fd = os.open(path, _FILE)
        except PermissionError:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    try:
        found = os.fstat(fd)
        # Resolving the roots costs more than the rest, so it is done only if it is needed.
        known = [] if symlinks == "follow" else _resolved(root, roots)
        allowed = _allowed(fd, rel_path, symlinks, known)
        if not allowed or not stat.S_ISREG(found.st_mode):
            return None
        return FoundFile(root_id, rel_path, Fingerprint.of(found), found.st_blocks * BLOCK)
    finally:
        os.close(fd)


def dangling_folder_link(root: str, rel_path: str) -> str | None:
    """
    Return the folder above *rel_path* that is a dangling link, if there is one.

    The files behind it are not deleted: their disk is not mounted. Raises OSError.
    """
    for cut in (i for i, c in enumerate(rel_path) if c == "/"):
        folder = os.path.join(root, rel_path[:cut])
        try:
            os.stat(folder)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return rel_path[:cut] if Path(folder).is_symlink() else None
    return None


def unfinished_downloads(root: str, folder: str) -> dict[str, str]:
    """Return the names that are still downloading, each with its marker file. Raises OSError."""
    try:
        names = os.listdir(os.path.join(root, folder))
    except OSError as error:
        if error.errno in _ABSENT:
            return {}
        raise
    owners = ((owner_of(name), name) for name in names)
    return {owner: name for owner, name in owners if owner is not None}


def _resolved(root: str, roots: Collection[str]) -> list[str]:
    return [os.path.realpath(directory) for directory in (root, *roots)]


def _allowed(fd: int, rel_path: str, symlinks: Symlinks, roots: list[str]) -> bool:
    """
    Return whether the rules for links allow the file that was opened as *rel_path* of the first root.

    The descriptor decides, not the path: a folder may be replaced by a link in between.
    """
    if symlinks == "follow":
        return True
    real = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115, names are bytes
    if symlinks == "skip":
        return real == os.path.join(roots[0], rel_path)
    return any(is_within(real, {root.rstrip("/")}) for root in roots)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into an unreadable folder: stat() reports it
        return False


def _key(entry: os.DirEntry[str]) -> bytes:
    # A folder sorts as the paths in it do: "a.pt" < "a/b" < "a0", although "a" < "a.pt".
    name = entry.name + "/" if _is_folder(entry) else entry.name
    return name.encode(_ENCODING, _ERRORS)
