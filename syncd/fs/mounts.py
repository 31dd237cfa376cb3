"""Which file systems a models tree lies on, read from ``/proc/self/mountinfo``."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from syncd.types import Mount

_NETWORK = frozenset(
    (
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "fuse", "ceph", "lustre",
        "beegfs", "gpfs", "glusterfs", "afs", "ocfs2", "gfs2", "orangefs", "pvfs2", "wekafs", "vboxsf",
    )
)  # fmt: skip

MOUNTS = "/proc/self/mountinfo"
UNKNOWN = Mount("unknown", "none", "/")  # not in the table, as in a chroot
_CONTAINER = "fuse.fuse-overlayfs"  # the root of a rootless container: a local disk


def mount_of(path: str, *, table: str = MOUNTS) -> Mount:
    """Return the mount that *path* lies on, or would lie on if it existed; links are resolved."""
    return _mount_over(os.path.realpath(path), _mounts(table))[1]


def mounts_in(root: str, folders: Iterable[str] = (), *, table: str = MOUNTS) -> dict[str, Mount]:
    """
    Return the file systems of a root by the rel_path of the folder where each one begins.

    These are the root itself (``""``), the mounts below it, and those of *folders* (links, or former
    mounts) that lead to another file system.
    """
    # The trailing slash makes an automounter mount the folder before the table is read.
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
    fs_type = mount_of(path, table=table).fs_type
    foreign = fs_type.startswith("fuse.") and fs_type != _CONTAINER
    return fs_type if fs_type in _NETWORK or foreign else None


def _mounts(table: str) -> dict[str, Mount]:
    """
    Return the mounts by mount point; see "proc_pid_mountinfo(5)". A later one hides an earlier one.

    A bind mount of a folder onto itself is left out: service managers create such mounts to protect
    folders, and only the processes of the service see them.
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
    point = path
    while point not in mounts and point != "/":
        point = os.path.dirname(point)
    return point, mounts.get(point, UNKNOWN)


def _mount(line: bytes) -> tuple[str, Mount]:
    place, _, what = line.rstrip(b"\n").partition(b" - ")
    root, point = (_unescaped(field) for field in place.split(b" ")[3:5])
    fs_type, source = (_unescaped(field) for field in what.split(b" ")[:2])
    return point, Mount(fs_type, source, root)


def _unescaped(field: bytes) -> str:
    """Decode a field, in which three octal digits stand for space, tab, newline and backslash."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes((int(m[1], 8),)), field))
