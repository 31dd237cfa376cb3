"""A keyring that keeps its entries in the file ``$TEST_KEYRING``, for a process to be told of."""

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked


class InFile(KeyringBackend):
    """Named by ``PYTHON_KEYRING_BACKEND``."""

    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        found: str | None = self._entries().get(f"{service} {username}")
        return found

    def set_password(self, service: str, username: str, password: str) -> None:
        self._write({**self._entries(), f"{service} {username}": password})

    def delete_password(self, service: str, username: str) -> None:
        entries = self._entries()
        del entries[f"{service} {username}"]
        self._write(entries)

    @property
    def _path(self) -> Path:
        return Path(os.environ["TEST_KEYRING"])

    def _entries(self) -> dict[str, str]:
        return dict(json.loads(self._path.read_text())) if self._path.exists() else {}

    def _write(self, entries: dict[str, str]) -> None:
        self._path.write_text(json.dumps(entries))


class Locked(InFile):
    """Nobody has typed its password."""

    def get_password(self, service: str, username: str) -> str | None:
        raise KeyringLocked
