"""
Paths of the configuration file, the state directory and the daemon's socket.

Commands that must start fast use this module without reading the whole configuration, so it imports
little and checks nothing else.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from syncd.errors import AccessDenied, ConfigError, StateError
from syncd.formatting import printable

if TYPE_CHECKING:
    from pathlib import Path

SOCKET = "syncd.sock"

SERVICE_RUN = "/run/syncd"
"""The runtime directory of the systemd unit."""

ADDRESS_MAX = 107
"""Bytes of a Unix socket's address (``sun_path`` in unix(7), without its last zero)."""


def find_config_file(environ: Mapping[str, str]) -> "Path | None":
    """The first ``config.toml`` in systemd's folder, the user's, then ``/etc/syncd``."""
    from pathlib import Path

    import platformdirs

    systemd = environ.get("CONFIGURATION_DIRECTORY", "").split(":")[0]
    folders = (systemd, platformdirs.user_config_dir("syncd"), "/etc/syncd")
    files = (Path(folder) / "config.toml" for folder in folders if folder)
    return next((file for file in files if os.path.isfile(file)), None)  # False without access


def default_state_dir(environ: Mapping[str, str]) -> "Path":
    """Return the first of ``$STATE_DIRECTORY`` (set by systemd), else the user's state folder."""
    from pathlib import Path

    first = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if not first:
        import platformdirs

        first = platformdirs.user_state_dir("syncd")
    return Path(first).absolute()


def state_dir_of(
    flag: str | None, config_file: str | os.PathLike[str] | None, environ: Mapping[str, str]
) -> str:
    """
    Find the state directory without checking the other settings.

    Args:
        flag: The value of ``--state-dir``, if given.
        config_file: The value of ``--config``; None searches the default locations.

    Raises:
        ConfigError: The file cannot be read, or its value is not a path.
    """
    named = flag or environ.get("SYNCD_STATE_DIR") or _configured(config_file, environ)
    if named is None:
        return os.fspath(default_state_dir(environ))
    if os.path.isabs(named) and os.path.normpath(named) == named:
        return named
    from pathlib import Path

    try:
        return os.fspath(Path(named).expanduser().absolute())
    except RuntimeError:
        raise ConfigError(
            f"{printable(named)}: names a home directory that does not exist"
        ) from None


def _configured(
    config_file: str | os.PathLike[str] | None, environ: Mapping[str, str]
) -> str | None:
    import tomllib
    from pathlib import Path

    path = Path(config_file) if config_file is not None else find_config_file(environ)
    if path is None:
        return None
    try:
        value = tomllib.loads(path.read_bytes().decode()).get("state_dir")
    except OSError as error:
        raise ConfigError(f"{printable(str(path))}: cannot be read: {error.strerror}") from None
    except ValueError:  # neither UTF-8 nor TOML; ``config.sources`` reports the line
        raise ConfigError(
            f"{printable(str(path))}: is not valid; for details run: syncd config check"
        ) from None
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{printable(str(path))}: state_dir: is not a path")
    return value or None


def socket_path(state_dir: str, environ: Mapping[str, str]) -> str:
    """
    Return the daemon's socket: in systemd's runtime directory, the user's, or *state_dir*.

    All daemons of a user share the user's directory, so the name is a hash of *state_dir* there.
    """
    unit = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if unit:
        return os.path.join(unit, SOCKET)
    shared = environ.get("XDG_RUNTIME_DIR", "")
    if not _is_private(shared):
        return os.path.join(state_dir, SOCKET)
    import hashlib

    mark = hashlib.sha256(os.fsencode(os.path.realpath(state_dir))).hexdigest()[:12]
    return os.path.join(shared, "syncd", f"{mark}.sock")


def writers_of(found: os.stat_result) -> str | None:
    """
    Describe who else may write to the state directory with the status *found*, or return None.

    Our own primary group does not count, and neither does a group that gives us access to another
    user's directory, such as a Kubernetes volume with an ``fsGroup``.
    """
    if found.st_mode & stat.S_IWOTH:
        return "every user of this machine"
    shared = found.st_uid == os.geteuid() and found.st_gid != os.getegid()
    return f"the group {found.st_gid}" if found.st_mode & stat.S_IWGRP and shared else None


def require_unshared(state_dir: str, found: os.stat_result) -> None:
    """
    Require that no other account may write to *state_dir*, whose status is *found*.

    Raises:
        StateError: Others may write; the message says how to fix it.
    """
    if (writers := writers_of(found)) is not None:
        raise StateError(
            f"The state directory {printable(state_dir)} is writable by {writers}, who could replace "
            f"the database or the credentials in it. To fix this, run: {closing(state_dir)}"
        )


def closing(state_dir: str) -> str:
    """The shell command that removes write access for others."""
    return f"chmod go-w '{printable(state_dir)}'"


def runtime_sockets(environ: Mapping[str, str]) -> Sequence[str]:
    """Paths of the system service's socket, which members of its group may use."""
    unit = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return [os.path.join(folder, SOCKET) for folder in dict.fromkeys((unit, SERVICE_RUN)) if folder]


def denied(path: str) -> AccessDenied:
    """Return the error for denied access to *path*; it names the file or folder that denies it."""
    ours = user_name(os.geteuid())
    while not os.access(os.path.dirname(path), os.X_OK, effective_ids=True):
        path = os.path.dirname(path)
    found = os.stat(path)
    owner, mode = user_name(found.st_uid), stat.S_IMODE(found.st_mode)
    shown, allowed = printable(path), " or as ".join(dict.fromkeys((owner, "root")))
    return AccessDenied(
        f"Access denied: the account {ours} may not read {shown}. {shown} belongs to "
        f"{owner} (mode {mode:04o}). Run this as {allowed}, or add {ours} to the group of "
        "the daemon's socket in its runtime directory."
    )


def user_name(uid: int) -> str:
    """Return the name of the account, else ``#uid``."""
    import pwd  # rarely needed

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _is_private(folder: str) -> bool:
    """Return whether only this user may write to *folder*: one in /tmp could belong to anyone."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return ours and not stat.S_IMODE(found.st_mode) & 0o077


@contextmanager
def address_of(path: str) -> Iterator[str]:
    """Yield an address for *path* that is short enough for ``bind`` and ``connect``."""
    if len(os.fsencode(path)) <= ADDRESS_MAX:
        yield path
        return
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)
