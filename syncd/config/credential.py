"""The token: where it is looked for, and what is no token for this use."""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from syncd.config.settings import Settings
from syncd.config.sources import DEFAULT
from syncd.core.news import signing_key
from syncd.errors import ConfigError
from syncd.model import printable

SECRETS_DIR = Path("/run/secrets")
TOKEN_FILE_MAX = 64 * 1024

_SESSION_TOKEN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")
_DEVICE_KEY = re.compile(r"dk-[!-~]+")


@dataclass(frozen=True, slots=True)
class TokenFile:
    """
    A file that may hold a secret, the token unless *setting* is another one.

    Args:
        path: Where it is.
        required: The operator named it, so its absence is an error.
        managed: Made by systemd or a container engine, which answer for its mode.
        setting: The setting that names such files.
    """

    path: Path
    required: bool = False
    managed: bool = False
    setting: str = "api.token_file"

    def read(self) -> str | None:
        """
        The text without surrounding whitespace; None if an optional file is not there.

        Raises:
            ConfigError: The file is missing, unreadable, or readable by others.
        """
        try:
            # O_NONBLOCK: a FIFO must not hang the start.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self.required:
                return None
            raise ConfigError(f"{self._name}: {error.strerror}; {self.setting} names it") from None
        except OSError as error:
            raise ConfigError(
                f"{self._name}: the secret cannot be read: {error.strerror}"
            ) from None
        try:
            self._check(os.fstat(descriptor))
            return os.read(descriptor, TOKEN_FILE_MAX).decode("ascii", "replace").strip()
        finally:
            os.close(descriptor)

    @property
    def _name(self) -> str:
        return printable(str(self.path))

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{self._name}: the secret must be in a regular file")
        if not self.managed and status.st_mode & 0o077:
            raise ConfigError(
                f"{self._name}: others may read the secret "
                f"(mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600 {self._name}"
            )


@dataclass(frozen=True, slots=True)
class CredentialSource:
    """
    Where the token comes from. ``read`` looks again, so a replaced file is noticed.

    Args:
        given: ``api.token``; *given_origin* says where it was set.
        files: Looked at in this order when nothing was given.
        team_id: ``api.team_id``, without which a session token is of no use.
    """

    given: SecretStr | None
    given_origin: str
    files: tuple[TokenFile, ...]
    team_id: str | None

    def read(self) -> tuple[SecretStr | None, str]:
        """
        The token now in force and its origin; ``(None, "default")`` when there is none.

        Raises:
            ConfigError: A token file cannot be used, or what it holds is no token for this use.
        """
        for token, origin in self._candidates():
            if token is not None:
                _check_token(token, origin, self.team_id)
                return SecretStr(token), origin
        return None, DEFAULT

    def token(self) -> str | None:
        """The token now in force, bare, for whoever sends it. Raises what ``read`` raises."""
        token, _ = self.read()
        return None if token is None else token.get_secret_value()

    def _candidates(self) -> Iterator[tuple[str | None, str]]:
        if self.given is not None:
            yield self.given.get_secret_value().strip(), self.given_origin
        for file in self.files:
            yield file.read(), printable(str(file.path))


def _check_token(token: str, origin: str, team_id: str | None) -> None:
    """Refuse what the API would refuse, with the reason (never with the token)."""
    instead = "use a device key (dk-...), which pairing this machine with your account gives"
    if token.startswith("sk-"):
        why = f"an sk- key runs workflows and MCP tools and may not touch models; {instead}"
    elif token.startswith("ak-"):
        why = f"an ak- key belongs to an agent and the API refuses it; {instead}"
    elif _DEVICE_KEY.fullmatch(token):
        return
    elif not _SESSION_TOKEN.fullmatch(token):
        why = f"this is neither a device key nor a session token; {instead}"
    elif team_id is None:
        why = (
            "a session token needs api.team_id (SYNCD_API__TEAM_ID): the id of your team, "
            "from team_list in the answer to GET /users/me"
        )
    else:
        return
    raise ConfigError(f"{origin}: api.token: {why}")


def credential_source(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    given_origin: str = "api.token",
    secrets_dir: Path = SECRETS_DIR,
) -> CredentialSource:
    """
    Where to look for the token: ``api.token``, else ``api.token_file``, else the usual places.

    These are ``$CREDENTIALS_DIRECTORY/api_token`` (systemd), ``/run/secrets/api_token``
    (containers) and ``credentials/api_token`` in the state directory; the first that exists counts.
    """
    managed = _managed_folders(environ, secrets_dir)
    files: tuple[TokenFile, ...]
    if (named := settings.api.token_file) is not None:
        files = (TokenFile(named, required=True, managed=_is_inside(named, managed)),)
    else:
        files = (
            *(TokenFile(folder / "api_token", managed=True) for folder in managed),
            TokenFile(settings.state_dir / "credentials" / "api_token"),
        )
    return CredentialSource(settings.api.token, given_origin, files, settings.api.team_id)


def webhook_secret(
    settings: Settings, environ: Mapping[str, str], *, secrets_dir: Path = SECRETS_DIR
) -> SecretStr | None:
    """
    What ``notify.webhook_secret_file`` holds, unless the secret itself was given.

    Raises:
        ConfigError: The file cannot be used, or what it holds is no signing key.
    """
    named = settings.notify.webhook_secret_file
    if named is None or settings.notify.webhook_secret is not None:
        return settings.notify.webhook_secret
    inside = _is_inside(named, _managed_folders(environ, secrets_dir))
    setting = "notify.webhook_secret_file"
    text = TokenFile(named, required=True, managed=inside, setting=setting).read() or ""
    try:
        signing_key(text)
    except ValueError as error:
        raise ConfigError(f"{printable(str(named))}: {setting}: what it holds {error}") from None
    return SecretStr(text)


def _managed_folders(environ: Mapping[str, str], secrets_dir: Path) -> list[Path]:
    handed_over = environ.get("CREDENTIALS_DIRECTORY")
    return [*([Path(handed_over)] if handed_over else []), secrets_dir]


def _is_inside(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)
