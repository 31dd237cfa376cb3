"""
The credentials that ``syncd login`` stores in the state directory: a session and a device key.

A renewed session that is not stored is lost, so each file is replaced atomically: write a new file,
sync, rename, sync the folder. A process that changes a file holds the folder's lock.
"""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError

from syncd.config.locations import denied, require_unshared, user_name
from syncd.errors import ConfigError, StateError, StateFull
from syncd.types import Session, printable

FOLDER = "credentials"
DEVICE_KEY = "api_token"
SESSION = "session.json"
_LOCK = "lock"
_NEW = "new"
"""Temporary file of the lock holder; one without a lock holder is a leftover."""

_ROOM = 40 * 1024
"""Bytes; larger than any session."""

READ_MAX = 64 * 1024

_SESSION = TypeAdapter(Session)


def read_secret(path: Path, *, managed: bool = False) -> str:
    """
    Read a file that only its owner may read; surrounding whitespace is removed.

    Args:
        managed: Created by systemd or a container engine, so its mode is not checked.

    Raises:
        OSError: It does not exist or cannot be read.
        ConfigError: It is not a regular file, or others may read it.
    """
    # O_NONBLOCK: a FIFO must not hang the start.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status, name = os.fstat(descriptor), printable(str(path))
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{name}: the secret must be in a regular file")
        if not managed and status.st_mode & 0o077:
            raise ConfigError(
                f"{name}: others may read the secret "
                f"(mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600 {name}"
            )
        return os.read(descriptor, READ_MAX).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Stored:
    """
    The credentials of one installation. Writing requires the lock (``try_lock``) and is durable.

    Args:
        base_url, team_id: The cloud and, if set, the team that a session must belong to.
    """

    state_dir: Path
    base_url: str
    team_id: str | None = None

    @property
    def session_file(self) -> Path:
        return self.state_dir / FOLDER / SESSION

    @property
    def device_key_file(self) -> Path:
        return self.state_dir / FOLDER / DEVICE_KEY

    def session(self) -> Session | None:
        """
        Read the stored session; None if there is none.

        Raises:
            AccessDenied: This account may not read it.
            ConfigError: Its mode, cloud, team or content is wrong.
        """
        name = printable(str(self.session_file))
        try:
            text = read_secret(self.session_file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise denied(os.fspath(self.session_file)) from None
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
        again = f"remove it (rm {name}) and sign in again: syncd login --large-files"
        try:
            session = _SESSION.validate_json(text, strict=True)
        except ValidationError:  # contains the text, so it is not shown
            raise ConfigError(f"{name}: is damaged; {again}") from None
        if session.base_url != self.base_url:
            raise ConfigError(
                f"{name}: is a session at {session.base_url}, but api.base_url is "
                f"{self.base_url}; change api.base_url, or {again}"
            )
        if self.team_id not in (None, session.team_id):
            raise ConfigError(
                f"{name}: is a session for the team {session.team_id}, but api.team_id is "
                f"{self.team_id}; change api.team_id, or {again}"
            )
        return session

    def prepare(self) -> None:
        """Create the folder, or raise a ``StateError``."""
        with _errors(self.state_dir):
            self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(self.state_dir)
            require_unshared(str(self.state_dir), self.state_dir.stat())
            (self.state_dir / FOLDER).mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self.state_dir)

    def try_lock(self) -> IO[bytes] | None:
        """
        Take the lock until the file that is returned is closed; None while another process holds it.

        The folder must exist.

        Raises:
            StateError: Locking failed, or the folder belongs to another user (also for root).
        """
        with _errors(self.state_dir):
            _check_owner(self.state_dir / FOLDER)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            lock = os.fdopen(os.open(self.state_dir / FOLDER / _LOCK, flags, 0o600), "rb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return None
            except BaseException:
                lock.close()
                raise
        return lock

    def make_room(self) -> None:
        """Reserve disk space for the next write of a session."""
        with _errors(self.state_dir):
            descriptor = self._open_new()
            try:
                os.posix_fallocate(descriptor, 0, _ROOM)
            finally:
                os.close(descriptor)

    def write_session(self, session: Session) -> None:
        self._write(SESSION, json.dumps(asdict(session)))

    def write_device_key(self, key: str) -> None:
        self._write(DEVICE_KEY, key)

    def remove(self, file: Path) -> bool:
        """Remove one of the files durably; False if it does not exist."""
        with _errors(self.state_dir):
            (self.state_dir / FOLDER / _NEW).unlink(missing_ok=True)  # it may contain a secret
            try:
                file.unlink()
            except FileNotFoundError:
                return False
            _sync_folder(file.parent)
        return True

    def _open_new(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.state_dir / FOLDER / _NEW, flags, 0o600)
        os.fchmod(descriptor, 0o600)
        return descriptor

    def _write(self, name: str, text: str) -> None:
        folder = self.state_dir / FOLDER
        with _errors(self.state_dir):
            descriptor = self._open_new()
            try:
                data = text.encode()
                # Written into the reserved space, which is truncated only afterwards.
                if os.pwrite(descriptor, data, 0) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), _NEW)
                os.ftruncate(descriptor, len(data))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            (folder / _NEW).rename(folder / name)
            _sync_folder(folder)


def _check_owner(folder: Path) -> None:
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise StateError(
            f"{printable(str(folder))} belongs to another user, who could not read the files stored "
            f"there; run this as that user: sudo -u {user_name(owner)} syncd ..."
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors(state_dir: Path) -> Iterator[None]:
    """Convert ``OSError`` to ``StateError``."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        name = printable(str(error.filename or state_dir))
        raise (StateFull if full else StateError)(
            f"{name}: the credential cannot be stored: {error.strerror}"
        ) from None
