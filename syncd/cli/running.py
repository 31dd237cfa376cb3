"""Does a daemon run? Asked before anything larger is imported."""

from syncd.errors import AccessDenied
from syncd.store.lock import is_locked


def is_running(state_dir: str) -> bool:
    """
    Does a daemon own *state_dir*?

    An account that may not read the directory asks the socket in the runtime directory.

    Raises:
        AccessDenied: This account may read neither.
    """
    try:
        return is_locked(state_dir)
    except AccessDenied:
        from syncd.cli import daemon_client

        return daemon_client.socket_of(state_dir) is not None
