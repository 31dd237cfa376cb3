"""The system's keyring as a place for the device key, where one is installed and usable."""

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
    One entry of it: the device key of one state directory at one cloud.

    The library and its backends are loaded by the first question only: that takes a while, and
    most installations never ask.
    """

    base_url: str
    state_dir: Path

    @property
    def name(self) -> str:
        """The place, as it is shown."""
        return f"keyring ({self.state})"

    @property
    def state(self) -> str:
        """Can it be used, and if not, why? In words."""
        backend = _backend()
        if backend is None:
            return f"not installed: {_EXTRA}"
        if not self.usable:
            return "none usable for this account"
        return type(backend).__module__.rpartition(".")[2]

    @property
    def usable(self) -> bool:
        """Is there a backend that keeps what it is given?"""
        backend = _backend()
        return backend is not None and type(backend).__module__ not in _UNUSABLE

    def key(self) -> str | None:
        """The device key; None if there is none, or the keyring cannot be asked."""
        with suppress(StateError):
            return self.ask()
        return None

    def ask(self) -> str | None:
        """
        The device key; None if there is none.

        Raises:
            StateError: The keyring does not answer: it is locked, for example.
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
        Keep *key* in the place of the one before.

        Raises:
            StateError: The keyring does not take it.
        """
        try:
            _backend().set_password(*self._entry, key)
        except _failures() as error:
            raise StateError(f"the keyring does not keep the key: {type(error).__name__}") from None

    def remove(self) -> bool:
        """Remove the key; False if it is not there. Raises what ``keep`` raises."""
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
    """The backend that the library chose; None where the library is not installed."""
    try:
        import keyring
    except ImportError:
        return None
    return keyring.get_keyring()


def _failures() -> tuple[type[Exception], ...]:
    """What backends raise: the library's own errors, and those of the bus or file behind them."""
    from keyring.errors import KeyringError

    return KeyringError, OSError, RuntimeError
