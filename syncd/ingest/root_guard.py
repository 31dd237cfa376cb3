"""
Checks that a root is there, with the file systems it had: without them files only seem to be gone.

Nothing is decided about the files of a root that fails these checks.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from syncd.errors import RootUnavailable
from syncd.executors import Executors
from syncd.fs.mounts import mounts_in
from syncd.ingest.comparer import Root, ScanResult
from syncd.store.files import RootRow
from syncd.store.store import Store
from syncd.types import Mount, printable

ACCEPT = "accept the directories as they are now: syncd scan --accept"


class RootGuard:
    def __init__(self, *, store: Store, lanes: Executors) -> None:
        self._store = store
        self._lanes = lanes

    async def row_of(self, root: Root) -> RootRow:
        return await self._lanes.db(self._store.files.root, root.id)

    async def require(self, root: Root) -> None:
        """Require the root and its file systems, without a scan. Raises ``RootUnavailable``."""
        row = await self.row_of(root)
        if root.type_key is None or row.held_model:  # ComfyUI tolerates the absence of others
            await self.require_mounts(root, row)

    async def require_mounts(
        self, root: Root, row: RootRow, links: Iterable[str] = ()
    ) -> Mapping[str, Mount]:
        """Require the file systems of *root*, also behind *links*; return its mounts."""
        mounts = await self._lanes.scan(_mounts_of, root.path, {*row.mounts, *links})
        if mounts is None:
            raise _missing(root)
        changed = changed_mounts(row.mounts, mounts)
        models = await self._lanes.db(self._store.files.models_below, root.id, changed)
        held = {**models, "": row.held_model}
        require_same_mounts(root, row.mounts, mounts, held.get)
        return mounts

    async def require_models(
        self, root: Root, row: RootRow, scan: ScanResult, observed: Sequence[str]
    ) -> None:
        """Require that no file system below the root lost all its models at once."""
        if scan.gone:
            folders = [folder for folder in row.mounts if folder]
            models = await self._lanes.db(self._store.files.models_below, root.id, folders)
            for folder in scan.emptied(models, observed):
                raise emptied(root, folder)


def absence(root: Root, row: RootRow, scan: ScanResult) -> RootUnavailable | None:
    """Return the error for a root that is unreadable, or has no models although it had some."""
    if any(rel_path == "" for rel_path, _ in scan.problems):
        return _missing(root)
    if row.held_model and not scan.has_model:
        return emptied(root)
    return None


def is_optional_and_absent(root: Root, row: RootRow, scan: ScanResult) -> bool:
    """Return whether this is a directory of extra_model_paths that never existed."""
    missing = any(
        rel_path == "" and isinstance(error, FileNotFoundError) for rel_path, error in scan.problems
    )
    return missing and root.type_key is not None and not row.held_model


def changed_mounts(before: Mapping[str, Mount], now: Mapping[str, Mount]) -> list[str]:
    """Return the folders where the file system changed, outermost first; none if *before* is empty."""
    folders = sorted(before.keys() | now.keys()) if before else []
    return [folder for folder in folders if before.get(folder) != now.get(folder)]


def require_same_mounts(
    root: Root,
    before: Mapping[str, Mount],
    now: Mapping[str, Mount],
    held_models: Callable[[str], object],
) -> None:
    """
    Require the file systems of the last scan wherever the root held models (``""``: the root itself).

    Raises:
        RootUnavailable: A folder that held models is on another file system.
    """
    for folder in changed_mounts(before, now):
        if held_models(folder):
            raise RootUnavailable(
                f"{_absolute(root, folder)} is on another file system than before "
                f"({_mount_text(now.get(folder))}, it was {_mount_text(before.get(folder))}). "
                f"Nothing was changed. Mount the old one, or {ACCEPT}."
            )


def emptied(root: Root, folder: str = "") -> RootUnavailable:
    """Return the error for a root, or a file system below it, that has lost all its models."""
    return RootUnavailable(
        f"{_absolute(root, folder)} contains no model, although it did before. Nothing was changed. "
        f"Check that its disk is mounted. If the models were removed on purpose, {ACCEPT}."
    )


def _missing(root: Root) -> RootUnavailable:
    return RootUnavailable(
        f"The models directory {printable(root.path)} is missing or cannot be read. Nothing was "
        "changed. Check models_dir (or extra_model_paths), the mount, and the permissions of the "
        "account that runs syncd."
    )


def _mounts_of(path: str, folders: Collection[str]) -> dict[str, Mount] | None:
    try:
        return mounts_in(path, folders) if os.path.isdir(path) else None
    except OSError:
        return None


def _absolute(root: Root, folder: str) -> str:
    return printable(os.path.join(root.path, folder) if folder else root.path)


def _mount_text(mount: Mount | None) -> str:
    return "no mount" if mount is None else f"{mount.fs_type} {printable(mount.source)}"
