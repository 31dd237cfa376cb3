"""
The lock on a state directory.

It is separate from the database, so that a command can check for a running syncd without SQLite.
"""

import errno
import fcntl
import os
import time

from syncd.config.locations import denied, require_unshared
from syncd.errors import AlreadyRunning, StateError
from syncd.formatting import printable

TRIES, PAUSE_S = 5, 0.02
FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Lock:
    """
    An exclusive flock on the state directory itself.

    A lock file could be removed, and a new one would admit a second owner.

    Raises:
        AlreadyRunning: Another process holds it.
        StateError: The directory cannot be created or written, or others may write in it.
    """

    def __init__(self, state_dir: str) -> None:
        try:
            os.makedirs(state_dir, mode=0o700, exist_ok=True)
            _require_writable(state_dir)
            self._fd = os.open(state_dir, FLAGS)
        except OSError as error:
            raise unusable(state_dir, error) from error
        try:
            require_unshared(state_dir, os.fstat(self._fd))
            _flock_patiently(self._fd)
        except StateError:
            os.close(self._fd)
            raise
        except BlockingIOError:
            os.close(self._fd)
            raise AlreadyRunning(
                f"Another syncd is using {printable(state_dir)}. "
                "Check it with 'syncd status', or stop it first."
            ) from None
        except OSError as error:
            os.close(self._fd)
            raise unusable(state_dir, error) from error

    def close(self) -> None:
        os.close(self._fd)


def _require_writable(state_dir: str) -> None:
    """Raise OSError early: an flock needs no write permission, and the database would fail later."""
    if not os.access(state_dir, os.W_OK | os.X_OK, effective_ids=True):
        read_only = os.statvfs(state_dir).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code))


def _flock_patiently(fd: int) -> None:
    """Retry briefly, because ``is_locked`` in another process holds the lock for an instant."""
    for _ in range(TRIES - 1):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            return
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(state_dir: str) -> bool:
    """
    Return whether a running syncd owns *state_dir*.

    Raises:
        AccessDenied: This account may not read it.
    """
    try:
        fd = os.open(state_dir, FLAGS)
    except PermissionError:
        raise denied(state_dir) from None
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def unusable(state_dir: str, error: OSError) -> StateError:
    """Return the error for a *state_dir* that cannot be opened or written."""
    return StateError(
        f"The state directory {printable(state_dir)} cannot be used: {error.strerror}. "
        "Give syncd a directory that it may write, on a local disk (state_dir)."
    )
