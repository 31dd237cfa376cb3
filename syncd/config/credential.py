"""Finds the token and refuses tokens that the API does not accept."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from syncd.config.credential_files import Stored, read_secret
from syncd.config.keyring import Keyring
from syncd.config.locations import denied
from syncd.config.settings import Settings
from syncd.config.sources import DEFAULT
from syncd.core.jobs.error_mapping import DEVICE_KEY, SESSION_TOKEN
from syncd.core.notifications import signing_key
from syncd.errors import ConfigError
from syncd.types import Session, printable

SECRETS_DIR = Path("/run/secrets")


@dataclass(frozen=True, slots=True)
class TokenFile:
    """
    A file that may hold a secret: the token, unless *setting* names another one.

    Args:
        required: The configuration names it, so it must exist.
        managed: Created by systemd or a container engine, so its mode is not checked.
    """

    path: Path
    required: bool = False
    managed: bool = False
    setting: str = "api.token_file"

    def read(self) -> str | None:
        """
        Return the text without surrounding whitespace; None if an optional file does not exist.

        Raises:
            AccessDenied: This account may not read it.
            ConfigError: The file is missing, unreadable, or readable by others.
        """
        name = printable(str(self.path))
        try:
            return read_secret(self.path, managed=self.managed)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self.required:
                return None
            raise ConfigError(f"{name}: {error.strerror}; {self.setting} names it") from None
        except PermissionError:
            raise denied(os.fspath(self.path)) from None
        except OSError as error:
            raise ConfigError(f"{name}: the secret cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class CredentialSource:
    """
    Finds the credential. Each call reads it again, so a replaced credential takes effect.

    A user's session always takes precedence over a device key: using both could spread the files
    over the catalogs of two teams.

    Args:
        given: ``api.token``, which was set at *given_origin*.
        files: Candidates in order, if *given* is None.
        team_id: ``api.team_id``, which a session token needs.
        stored: The credentials that ``syncd login`` stores.
        keyring: The last candidate for a device key.
    """

    given: SecretStr | None
    given_origin: str
    files: tuple[TokenFile, ...]
    team_id: str | None
    stored: Stored | None = None
    keyring: Keyring | None = None

    def read(self) -> tuple[SecretStr | None, str]:
        """
        Return the current token and its origin, or ``(None, "default")``.

        Raises:
            ConfigError: A token file cannot be used, or the API does not accept its kind of token.
        """
        found, origin = self._find()
        token = found.access if isinstance(found, Session) else found
        return None if token is None else SecretStr(token), origin

    def current(self) -> str | Session | None:
        """Return the current token or session. Raises what ``read`` raises."""
        return self._find()[0]

    @property
    def is_session(self) -> bool:
        """Whether the credential belongs to a signed-in user. Raises what ``read`` raises."""
        token, _ = self.read()
        return token is not None and not DEVICE_KEY.fullmatch(token.get_secret_value())

    def device_key(self) -> tuple[str | None, str]:
        """Return the device key that is used without a session, and its origin."""
        token, origin = self.configured()
        return (token, origin) if token and DEVICE_KEY.fullmatch(token) else (None, DEFAULT)

    def configured(self) -> tuple[str | None, str]:
        """
        Return the first token of all candidates except the stored session, and its origin.

        Raises what ``read`` raises.
        """
        for token, origin in self._candidates():
            if token is not None:
                _check_token(token, origin, self.team_id)
                return token, origin
        return None, DEFAULT

    @property
    def own_keyring(self) -> Keyring | None:
        """The keyring that ``syncd login`` uses, even if another source takes precedence."""
        return Keyring(self.stored.base_url, self.stored.state_dir) if self.stored else None

    def kept_keys(self) -> list[tuple[str, str]]:
        """
        Return the device keys that ``syncd login`` stored, and where they are.

        Raises:
            ConfigError: The file cannot be read, or others may read it.
        """
        found: list[tuple[str | None, str]] = []
        if self.stored is not None:
            file = self.stored.device_key_file
            found.append((TokenFile(file).read(), printable(str(file))))
        if (ring := self.own_keyring) is not None:
            found.append((ring.key(), ring.name))
        return [(key, place) for key, place in found if key and DEVICE_KEY.fullmatch(key)]

    def places(self) -> list[str]:
        """Describe the candidates in order of precedence."""
        sessions = [str(self.stored.session_file)] if self.stored else []
        files = [str(file.path) for file in self.files]
        rings = [self.keyring.name] if self.keyring else []
        return [printable(each) for each in (*sessions, "api.token", *files, *rings)]

    def _find(self) -> tuple[str | Session | None, str]:
        token, origin = self.configured()
        if token is not None and not DEVICE_KEY.fullmatch(token):
            return token, origin
        session = self.stored.session() if self.stored is not None else None
        if session is None or self.stored is None:
            return token, origin
        return session, printable(str(self.stored.session_file))

    def _candidates(self) -> Iterator[tuple[str | None, str]]:
        if self.given is not None:
            yield self.given.get_secret_value().strip(), self.given_origin
        for file in self.files:
            yield file.read(), printable(str(file.path))
        if self.keyring is not None:
            yield self.keyring.key(), self.keyring.name


def _check_token(token: str, origin: str, team_id: str | None) -> None:
    """Refuse tokens that the API refuses; the error does not contain the token."""
    instead = "use a device key (dk-...); to get one, run: syncd login"
    if token.startswith("sk-"):
        reason = f"an sk- key runs workflows and MCP tools and cannot access models; {instead}"
    elif token.startswith("ak-"):
        reason = f"an ak- key belongs to an agent and the API refuses it; {instead}"
    elif DEVICE_KEY.fullmatch(token):
        return
    elif not SESSION_TOKEN.fullmatch(token):
        reason = f"this is neither a device key nor a session token; {instead}"
    elif team_id is None:
        reason = (
            "a session token needs api.team_id (SYNCD_API__TEAM_ID): the id of your team, "
            "from team_list in the answer to GET /users/me"
        )
    else:
        return
    raise ConfigError(f"{origin}: api.token: {reason}")


def credential_source(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    given_origin: str = "api.token",
    secrets_dir: Path = SECRETS_DIR,
) -> CredentialSource:
    """
    Return the source of the token: ``api.token``, else ``api.token_file``, else the defaults.

    The defaults are ``$CREDENTIALS_DIRECTORY/api_token`` (systemd), ``/run/secrets/api_token``
    (containers), the file that ``syncd login`` writes, and the system's keyring, in this order.
    """
    managed = _managed_folders(environ, secrets_dir)
    stored = Stored(settings.state_dir, settings.api.base_url, settings.api.team_id)
    files: tuple[TokenFile, ...]
    ring: Keyring | None = None
    if (named := settings.api.token_file) is not None:
        files = (TokenFile(named, required=True, managed=_is_inside(named, managed)),)
    else:
        files = (
            *(TokenFile(folder / "api_token", managed=True) for folder in managed),
            TokenFile(stored.device_key_file),
        )
        ring = Keyring(settings.api.base_url, settings.state_dir)
    return CredentialSource(
        settings.api.token, given_origin, files, settings.api.team_id, stored, ring
    )


def webhook_secret(
    settings: Settings, environ: Mapping[str, str], *, secrets_dir: Path = SECRETS_DIR
) -> SecretStr | None:
    """
    Return ``notify.webhook_secret``, else the content of ``notify.webhook_secret_file``.

    Raises:
        ConfigError: The file cannot be used or does not contain a signing key.
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
        raise ConfigError(f"{printable(str(named))}: {setting}: the content {error}") from None
    return SecretStr(text)


def _managed_folders(environ: Mapping[str, str], secrets_dir: Path) -> list[Path]:
    systemd = environ.get("CREDENTIALS_DIRECTORY")
    return [*([Path(systemd)] if systemd else []), secrets_dir]


def _is_inside(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)
