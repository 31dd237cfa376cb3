"""
Walks a models tree and says what is there.

Folders are opened relative to their parent's descriptor and one ``stat`` is made a file, so a walk
costs little more than the system calls. Names are never decoded strictly: whatever bytes the disk
holds come through as ``os.fsdecode`` makes them.
"""

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Literal

from syncd.core.files.naming import ENDINGS, ending_of, is_within, never_enter, owner_of
from syncd.types import Fingerprint, FoundFile, Mount, StatKey

Symlinks = Literal["follow", "within_roots", "skip"]
"""Which links are followed: all, as ComfyUI does; those that stay inside a root; none."""

Problem = Callable[[str, OSError], None]
"""Told a rel_path at and below which nothing could be judged, and why."""


DEPTH_MAX = 64
"""Folders below each other; each holds a descriptor. Deeper ones are reported as a problem."""

BLOCK = 512
"""Bytes that ``st_blocks`` counts in, on every file system."""

STRETCH_MAX = 1000
"""Files of one stretch."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO waits for its writer.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

# Nothing is there (any more), or nothing that could be a model: a link to nowhere, a socket.
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO))

# What os.fsencode goes by, which is called for every file.
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

_NETWORK = frozenset(
    (
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "fuse", "ceph", "lustre",
        "beegfs", "gpfs", "glusterfs", "afs", "ocfs2", "gfs2", "orangefs", "pvfs2", "wekafs", "vboxsf",
    )
)  # fmt: skip

MOUNTS = "/proc/self/mountinfo"

UNKNOWN = Mount("unknown", "none", "/")
"""Where the table has no entry: it need not name what a chroot stands on."""

_CONTAINER = "fuse.fuse-overlayfs"
"""The root of a container that was started without privileges: a local disk."""

_Named = tuple[bytes, os.DirEntry[str]]
"""What it is sorted by, and what it is."""


class DanglingLink(FileNotFoundError):
    """A link to a folder that is not there; patterns that exclude it silence it."""

    def __init__(self) -> None:
        super().__init__(errno.ENOENT, "a link to a folder that is not there; is its disk mounted?")


@dataclass(frozen=True, slots=True)
class _Folder:
    """An open folder. ``path`` ends in a slash; the root's is empty. ``key`` is it in bytes."""

    fd: int
    path: str
    key: bytes
    identity: tuple[int, int]


@dataclass(slots=True)
class FileBatch:
    """
    Files of one folder that follow each other in path order: at least one, ``STRETCH_MAX`` at most.

    ``traces`` tell whether they are as they were. A whole tree is compared by them, so that more is
    made only of files that changed.
    """

    root_id: int
    traces: list[StatKey] = field(default_factory=list)
    devices: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def add(self, path: bytes, found: os.stat_result) -> None:
        """One more file, behind the others."""
        self.traces.append(
            (path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, str(found.st_ino))
        )
        self.devices.append(found.st_dev)
        self.blocks.append(found.st_blocks)

    def files(self) -> Iterator[FoundFile]:
        """All of them, in path order."""
        for trace, dev, blocks in zip(self.traces, self.devices, self.blocks, strict=True):
            path, size, mtime_ns, ctime_ns, inode = trace
            fingerprint = Fingerprint(dev, int(inode), size, mtime_ns, ctime_ns)
            yield FoundFile(self.root_id, os.fsdecode(path), fingerprint, blocks * BLOCK)


def walk(
    root: str,
    root_id: int,
    *,
    below: str = "",
    symlinks: Symlinks = "follow",
    roots: Collection[str] = (),
    problem: Problem,
    on_link: Callable[[str], None] = lambda rel_path: None,
) -> Iterator[FoundFile]:
    """Every regular file at or below ``root/below``, as ``stretches`` meets them."""
    met = stretches(
        root,
        root_id,
        below=below,
        symlinks=symlinks,
        roots=roots,
        problem=problem,
        on_link=on_link,
    )
    for stretch in met:
        yield from stretch.files()


def stretches(
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
    Every regular file at or below ``root/below``, in the byte order of the whole path.

    A folder that is its own ancestor is not entered again; one that two links lead to is two
    folders, as ComfyUI sees it. Folders of ``core.paths.never_enter`` are passed over. What cannot
    be read goes to *problem*, before any path that sorts after it is yielded: nothing may be
    concluded about files there. So does a link to nowhere, unless its name is that of a model. A
    missing root is a problem of the empty path.

    Args:
        below: Path of a folder below *root*; one that does not exist holds nothing.
        roots: Further directories that links may lead into under ``within_roots``.
        on_link: Called with the rel_path of each folder that was entered through a link.
    """
    tree = _Tree(symlinks, _resolved(root, roots), problem, on_link)
    try:
        pending = [tree.listing()] if tree.descend(root, below) else []
        while pending:
            entered = yield from _stretches_here(tree, root_id, pending[-1])
            if entered:
                pending.append(tree.listing())
            else:
                pending.pop()
                tree.leave()
    finally:
        tree.close()


def _stretches_here(
    tree: "_Tree", root_id: int, listing: list[_Named]
) -> Generator[FileBatch, None, bool]:
    """The files of *listing* up to a folder that was entered; it is used up, False at its end."""
    here, stretch = tree.chain[-1].key, FileBatch(root_id)
    entered = False
    while listing and not entered:  # popped, so that no more than a stretch is held of its stats
        name, entry = listing.pop()
        if name.endswith(b"/"):
            entered = tree.enter(entry.name, linked=entry.is_symlink())
        elif (found := tree.stat(entry)) is not None:
            stretch.add(here + name, found)
            if len(stretch.traces) == STRETCH_MAX:
                yield stretch
                stretch = FileBatch(root_id)
    if stretch.traces:
        yield stretch
    return entered


class _Tree:
    """The folders open between the root and where a walk is, and the rules for entering more."""

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
        """Open *root* and go down to *below*; False if there is no such folder to look into."""
        try:
            fd = os.open(root, _FOLDER)
        except OSError as error:
            self._problem("", error)
            return False
        self.chain.append(_Folder(fd, "", b"", _identity(fd)))
        return all(self.enter(name) for name in below.split("/") if name)

    def enter(self, name: str, *, linked: bool = False) -> bool:
        """Go into the folder *name* of the innermost one; False if it is not to be looked into."""
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
        """What is in the innermost folder, sorted, the first at the end; folders end in a slash."""
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
        """The regular file behind *entry*, or None if there is none that may be taken."""
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
        """What the link *entry* leads to, if it may be followed; asked of one descriptor."""
        if self._symlinks == "follow":
            return entry.stat()
        fd = os.open(entry.name, os.O_PATH | os.O_CLOEXEC, dir_fd=self.chain[-1].fd)
        try:
            path = self.chain[-1].path + entry.name
            return os.fstat(fd) if _allowed(fd, path, self._symlinks, self._roots) else None
        finally:
            os.close(fd)

    def _report_link(self, name: str) -> None:
        """A link to nowhere: by its name it may stand for a folder whose disk is off."""
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
        """Go back to the parent folder."""
        os.close(self.chain.pop().fd)

    def close(self) -> None:
        """Close every folder that is still open."""
        while self.chain:
            self.leave()


def look(
    root: str,
    root_id: int,
    rel_path: str,
    *,
    symlinks: Symlinks = "follow",
    roots: Collection[str] = (),
) -> FoundFile | None:
    """
    The regular file at one path, or None if there is none that may be taken.

    The file is opened, which makes NFS ask its server instead of the cache. One that we may not
    read is found all the same: saying so is left to whoever reads it.

    Raises:
        OSError: It cannot be told what is there (a folder above it closed to us, an I/O error).
    """
    try:
        fd = _opened(os.path.join(root, rel_path))
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    try:
        found = os.fstat(fd)
        # Resolving the roots costs more than the look, and only some have to know.
        known = [] if symlinks == "follow" else _resolved(root, roots)
        allowed = _allowed(fd, rel_path, symlinks, known)
        return _found(root_id, rel_path, found) if allowed and stat.S_ISREG(found.st_mode) else None
    finally:
        os.close(fd)


def _opened(path: str) -> int:
    try:
        return os.open(path, _FILE)
    except PermissionError:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)


def link_to_nowhere(root: str, rel_path: str) -> str | None:
    """
    The folder above *rel_path* that is a link without a target, if there is one.

    Its files are not gone: their disk is.

    Raises:
        OSError: It cannot be told what is there.
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


def companions(root: str, folder: str) -> dict[str, str]:
    """
    Names in *folder*, below *root*, that a downloader still works at, each with the trace it keeps.

    One listing serves all files of a folder. A folder that does not exist has none.

    Raises:
        OSError: The folder cannot be listed, so nothing is known.
    """
    try:
        names = os.listdir(os.path.join(root, folder))
    except OSError as error:
        if error.errno in _ABSENT:
            return {}
        raise
    owners = ((owner_of(name), name) for name in names)
    return {owner: name for owner, name in owners if owner is not None}


def mount_of(path: str, *, table: str = MOUNTS) -> Mount:
    """
    The mount that *path* lies on, links resolved; of a missing path, the one it would lie on.

    Raises:
        OSError: The table cannot be read.
    """
    return _mount_over(os.path.realpath(path), _mounts(table))[1]


def mounts_in(root: str, folders: Iterable[str] = (), *, table: str = MOUNTS) -> dict[str, Mount]:
    """
    The file systems that a root consists of, by the rel_path of the folder where each begins.

    These are the root itself (``""``), the mounts below it, and those of *folders* that lead to
    another file system than the root's.

    Args:
        folders: Folders below *root* that are links, or were mounts; they need not exist.

    Raises:
        OSError: The table cannot be read.
    """
    # The slash asks for what is inside the folder, so an automounter mounts it before the table is read.
    exist = [folder for folder in folders if os.path.isdir(os.path.join(root, folder, ""))]
    mounts, real = _mounts(table), os.path.realpath(root)
    _, base = _mount_over(real, mounts)
    found = {"": base}
    for folder in exist:
        _, mount = _mount_over(os.path.realpath(os.path.join(root, folder)), mounts)
        if mount != base:
            found[folder] = mount
    inside = real.rstrip("/") + "/"
    found |= {at[len(inside) :]: mount for at, mount in mounts.items() if at.startswith(inside)}
    return found


def network_filesystem(path: str, *, table: str = MOUNTS) -> str | None:
    """The type of *path*'s file system if other hosts may write to it unseen, else None."""
    fs_type = mount_of(path, table=table).fs_type
    foreign = fs_type.startswith("fuse.") and fs_type != _CONTAINER
    return fs_type if fs_type in _NETWORK or foreign else None


def _mounts(table: str) -> dict[str, Mount]:
    """
    What is mounted, by mount point; of two mounts at one point, the later one hides the other.

    A bind mount that shows what would be there without it is left out. A service manager makes such
    mounts to protect folders, and only the processes of the service see them.

    See "proc_pid_mountinfo(5)" for the format.
    """
    mounts: dict[str, Mount] = {}
    with open(table, "rb") as file:
        for at, mount in map(_mount, file):
            mounts.pop(at, None)
            point, over = _mount_over(at, mounts)
            if mount != replace(over, root=os.path.join(over.root, os.path.relpath(at, point))):
                mounts[at] = mount
    return mounts


def _mount_over(path: str, mounts: Mapping[str, Mount]) -> tuple[str, Mount]:
    """The mount that *path*, without links, lies on, and its mount point."""
    point = path
    while point not in mounts and point != "/":
        point = os.path.dirname(point)
    return point, mounts.get(point, UNKNOWN)


def _mount(line: bytes) -> tuple[str, Mount]:
    """One line of mountinfo: where it is mounted, and what."""
    place, _, what = line.rstrip(b"\n").partition(b" - ")
    root, point = (_unescaped(field) for field in place.split(b" ")[3:5])
    fs_type, source = (_unescaped(field) for field in what.split(b" ")[:2])
    return point, Mount(fs_type, source, root)


def _unescaped(field: bytes) -> str:
    """Space, tab, newline and backslash are written as three octal digits."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes((int(m[1], 8),)), field))


def _resolved(root: str, roots: Collection[str]) -> list[str]:
    return [os.path.realpath(directory) for directory in (root, *roots)]


def _allowed(fd: int, rel_path: str, symlinks: Symlinks, roots: list[str]) -> bool:
    """
    May what was opened as *rel_path* of the first root be read?

    Asked of the descriptor, not of the path: a folder may be swapped for a link in between.
    """
    if symlinks == "follow":
        return True
    real = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115, names are bytes
    if symlinks == "skip":
        return real == os.path.join(roots[0], rel_path)
    return any(is_within(real, {root.rstrip("/")}) for root in roots)


def _found(root_id: int, rel_path: str, found: os.stat_result) -> FoundFile:
    fingerprint = Fingerprint(
        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )
    return FoundFile(root_id, rel_path, fingerprint, found.st_blocks * BLOCK)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into a place we may not look at: stat() will say so
        return False


def _key(entry: os.DirEntry[str]) -> bytes:
    # A folder sorts as the paths in it do: "a.pt" < "a/b" < "a0", although "a" < "a.pt".
    name = entry.name + "/" if _is_folder(entry) else entry.name
    return name.encode(_ENCODING, _ERRORS)
