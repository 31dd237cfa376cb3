"""Stores the device key in the system's keyring, if one is installed and usable."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncd.errors import StateError

_EXTRA = "syncd[keyring]"
_UNUSABLE = ("keyring.backends.fail", "keyring.backends.null")


@dataclass(frozen=True, slots=True)
class Keyring:
    """
    One keyring entry: the device key of one state directory for one cloud.

    The library is imported on first use, because loading its backends is slow.
    """

    base_url: str
    state_dir: Path

    @property
    def name(self) -> str:
        return f"keyring ({self.state})"

    @property
    def state(self) -> str:
        """Name of the backend, or why there is none."""
        backend = _backend()
        if backend is None:
            return f"not installed: {_EXTRA}"
        if not self.usable:
            return "none usable for this account"
        return type(backend).__module__.rpartition(".")[2]

    @property
    def usable(self) -> bool:
        """Whether a backend exists that stores secrets."""
        backend = _backend()
        return backend is not None and type(backend).__module__ not in _UNUSABLE

    def key(self) -> str | None:
        """Return the device key; None if there is none, or the keyring does not answer."""
        with suppress(StateError):
            return self.ask()
        return None

    def ask(self) -> str | None:
        """Like ``key``, but raise a ``StateError`` if the keyring does not answer (is locked)."""
        if not self.usable:
            return None
        with _errors("the keyring does not answer"):
            found: str | None = _backend().get_password(*self._entry)
        return found

    def keep(self, key: str) -> None:
        """Replace the stored key. Raises ``StateError`` if the keyring does not store it."""
        with _errors("the keyring does not store the key"):
            _backend().set_password(*self._entry, key)

    def remove(self) -> None:
        """Remove the key, if there is one. Raises what ``keep`` raises."""
        if self.key() is not None:
            with _errors("the keyring still has the key"):
                _backend().delete_password(*self._entry)

    @property
    def _entry(self) -> tuple[str, str]:
        return f"syncd {self.base_url}", str(self.state_dir)


def _backend() -> Any:
    """Return the backend that the library selects; None if the library is not installed."""
    try:
        import keyring
    except ImportError:
        return None
    return keyring.get_keyring()


@contextmanager
def _errors(problem: str) -> Iterator[None]:
    """Convert what backends raise, including those of D-Bus and files, to ``StateError``."""
    from keyring.errors import KeyringError

    try:
        yield
    except (KeyringError, OSError, RuntimeError) as error:
        raise StateError(f"{problem}: {type(error).__name__}") from None
