"""Stores the device key in the system's keyring, if one is installed and usable."""

from contextlib import suppress
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
        """The name that is shown to users."""
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
        """
        Return the device key; None if there is none.

        Raises:
            StateError: The keyring does not answer, for example because it is locked.
        """
        if not self.usable:
            return None
        try:
            found: str | None = _backend().get_password(*self._entry)
        except _failures() as error:
            raise StateError(f"the keyring does not answer: {type(error).__name__}") from None
        return found

    def keep(self, key: str) -> None:
        """
        Replace the stored key.

        Raises:
            StateError: The keyring does not store it.
        """
        try:
            _backend().set_password(*self._entry, key)
        except _failures() as error:
            raise StateError(
                f"the keyring does not store the key: {type(error).__name__}"
            ) from None

    def remove(self) -> bool:
        """Remove the key; False if there is none. Raises what ``keep`` raises."""
        if self.key() is None:
            return False
        try:
            _backend().delete_password(*self._entry)
        except _failures() as error:
            raise StateError(f"the keyring still has the key: {type(error).__name__}") from None
        return True

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


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions that backends raise, including those of D-Bus and files."""
    from keyring.errors import KeyringError

    return KeyringError, OSError, RuntimeError
