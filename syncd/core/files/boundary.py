"""
The boundary of the models directories: what a link may publish that leads outside of them.

One unpacked archive can hold a link to any file that the account of syncd may read. So a file
outside is taken only where models may lie, and only if its content is that of a model.
"""

from collections.abc import Collection
from dataclasses import dataclass

from syncd.core.files.naming import is_within

SYSTEM = frozenset(
    ("/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/log", "/var/mail", "/var/spool")
)
"""Directories that never hold models."""

MOUNTED = frozenset(("/run/media", "/run/mount"))
"""Below one of them, but where desktops mount disks."""

PRIVATE = frozenset(
    (
        ".ssh", ".gnupg", ".pki", ".aws", ".azure", ".gcloud", ".kube", ".docker", ".password-store",
        ".config", ".mozilla", ".thunderbird", ".var", "google-chrome", "chromium", "keyrings",
    )
)  # fmt: skip
"""Names of directories that hold keys, settings or a browser's profile, in whose home ever."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """
    Where models lie. All paths are absolute, links resolved.

    Attributes:
        roots: The models directories.
        kept: Files and directories of syncd itself, such as the state directory.
    """

    roots: frozenset[str]
    kept: frozenset[str]

    def is_outside(self, path: str) -> bool:
        """Does the file at *path* lie in no models directory?"""
        return not is_within(path, self.roots)

    def forbidden(self, path: str) -> str | None:
        """The place that keeps the file at *path*, which is outside, from being read, or None."""
        folders = path.split("/")[:-1]
        private = next((at for at, name in enumerate(folders) if name in PRIVATE), None)
        if private is not None:
            return "/".join(folders[: private + 1])
        if is_within(path, MOUNTED):
            return None
        return _top(path, SYSTEM) or _top(path, self.kept)


def _top(path: str, tops: Collection[str]) -> str | None:
    return next((top for top in sorted(tops) if is_within(path, {top})), None)
