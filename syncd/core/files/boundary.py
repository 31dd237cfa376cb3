"""
The boundary of the models directories: which files outside them a symbolic link may publish.

An unpacked archive can contain a link to any file that syncd's account can read. A file outside the
models directories is therefore accepted only where models may be, and only if its content is a model.
"""

from dataclasses import dataclass

from syncd.core.files.naming import is_within

SYSTEM = frozenset(
    ("/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/log", "/var/mail", "/var/spool")
)
MOUNTED = frozenset(("/run/media", "/run/mount"))  # an exception: desktops mount disks here

PRIVATE = frozenset(
    (
        ".ssh", ".gnupg", ".pki", ".aws", ".azure", ".gcloud", ".kube", ".docker", ".password-store",
        ".config", ".mozilla", ".thunderbird", ".var", "google-chrome", "chromium", "keyrings",
    )
)  # fmt: skip
"""Names of directories with keys, settings or browser profiles, in any home directory."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """The models directories and syncd's own files (``kept``), absolute, with links resolved."""

    roots: frozenset[str]
    kept: frozenset[str]

    def is_outside(self, path: str) -> bool:
        return not is_within(path, self.roots)

    def forbidden(self, path: str) -> str | None:
        """Return the directory that makes reading the outside file *path* forbidden, or None."""
        folders = path.split("/")[:-1]
        private = next((at for at, name in enumerate(folders) if name in PRIVATE), None)
        if private is not None:
            return "/".join(folders[: private + 1])
        if is_within(path, MOUNTED):
            return None
        tops = (*sorted(SYSTEM), *sorted(self.kept))
        return next((top for top in tops if is_within(path, {top})), None)
