"""
Reads the configuration from flags, environment variables, the TOML file and defaults, in this order.

``load`` reports all errors at once and keeps the origin of each value. Error messages contain no
values, so a secret under a wrong key is not shown.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from syncd.config.credential import CredentialSource, credential_source, webhook_secret
from syncd.config.extra_paths import extra_folders
from syncd.config.locations import default_state_dir, find_config_file
from syncd.config.rules import unknown_types
from syncd.config.settings import (
    KEYS,
    VARIABLES,
    Settings,
    shown,
    value_at,
)
from syncd.config.sources import DEFAULT, Given, from_environment, from_toml, is_section
from syncd.errors import ConfigError
from syncd.types import Session, printable

FLAG = "flag"
"""Origin of a value that a flag gave."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    The settings and the origin of each value.

    ``origins`` has every key of ``KEYS``: ``default``, ``flag``, a variable's name, ``file:line``,
    or for ``api.token``, ``api.team_id`` and ``notify.webhook_secret`` the file that holds it.
    ``config_file`` is the TOML file read, if any.
    """

    settings: Settings
    origins: Mapping[str, str]
    credential: CredentialSource
    config_file: Path | None

    def value(self, key: str) -> object:
        """Return the effective value of a dotted *key*, including one that comes from its own file."""
        if key == "api.token" and self.origins[key] != DEFAULT:
            return SecretStr("")
        if key == "api.team_id" and isinstance(session := self.credential.current(), Session):
            return session.team_id
        return value_at(self.settings, key)


def load(
    config_file: str | os.PathLike[str] | None,
    overrides: Mapping[str, object],
    environ: Mapping[str, str],
) -> Loaded:
    """
    Read and check all sources, including the credential.

    Args:
        config_file: The value of ``--config``; None searches the default locations.
        overrides: Values of flags by dotted key; None means the flag was not given.
        environ: Environment variables.

    Raises:
        ConfigError: One line per problem: origin with line number, key, error and advice.
    """
    path = Path(config_file) if config_file is not None else find_config_file(environ)
    given = {
        "state_dir": _state_dir(environ),
        **(from_toml(path) if path else {}),
        **from_environment(environ),
        **{key: Given(value, FLAG) for key, value in overrides.items() if value is not None},
    }
    problems = [_unknown(key, given.pop(key)) for key in list(given) if key not in KEYS]
    settings = _validate(given, problems, path)
    _require_state_outside(settings, given)
    origins = {key: given[key].origin if key in given else DEFAULT for key in KEYS}
    credential = credential_source(settings, environ, given_origin=origins["api.token"])
    _, origins["api.token"] = credential.read()
    if settings.api.team_id is None and isinstance(credential.current(), Session):
        origins["api.team_id"] = origins["api.token"]
    if (secret := webhook_secret(settings, environ)) is not settings.notify.webhook_secret:
        origins["notify.webhook_secret"] = printable(str(settings.notify.webhook_secret_file))
        notify = settings.notify.model_copy(update={"webhook_secret": secret})
        settings = settings.model_copy(update={"notify": notify})
    return Loaded(settings, MappingProxyType(origins), credential, path)


def require_known_types(loaded: Loaded) -> None:
    """
    Require that each type in ``select.types`` and ``select.bundles`` is a folder of a root.

    A daemon starts without this check, since the folder may be created later.

    Raises:
        ConfigError: A type does not exist; the text suggests the nearest one.
    """
    problems = [
        f"{loaded.origins[key]}: {key}: {wrong}" for key, wrong in unknown_types(loaded.settings)
    ]
    if problems:
        raise _config_error(problems)


def _state_dir(environ: Mapping[str, str]) -> Given:
    origin = "STATE_DIRECTORY" if environ.get("STATE_DIRECTORY") else DEFAULT
    return Given(default_state_dir(environ), origin)


def _unknown(key: str, given: Given) -> str:
    if is_section(key):
        return f"{given.origin}: {key}: is a section, not a value; write [{key}]"
    names, what = (VARIABLES, "variable") if key.startswith("SYNCD_") else (KEYS, "setting")
    import difflib  # only for a mistyped key

    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
    return f"{given.origin}: {printable(key)}: no such {what}; did you mean {nearest}?"


def _nested(given: Mapping[str, Given]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for key, item in given.items():
        *sections, name = key.split(".")
        table = tables
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = item.value
    return tables


def _validate(given: Mapping[str, Given], problems: list[str], path: Path | None) -> Settings:
    """Build the settings, or raise all *problems* and those found here."""
    try:
        settings = Settings(**_nested(given))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise _config_error([*problems, *(_problem(e, given, path) for e in found)]) from None
    if problems:
        raise _config_error(problems)
    return settings


def _config_error(problems: Sequence[str]) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(problems[0])
    listed = "\n".join(f"  {problem}" for problem in problems)
    return ConfigError(f"{len(problems)} problems in the configuration:\n{listed}")


def _problem(error: ErrorDetails, given: Mapping[str, Given], path: Path | None) -> str:
    """Format one error of pydantic: origin, key, what is wrong, what the key is for."""
    cause = error.get("ctx", {}).get("error")
    keys = getattr(cause, "keys", None) or [_key_of(error["loc"])]
    if error["type"] == "missing":
        return _missing(keys[0], path)
    key = next((key for key in keys if key in given), keys[0])
    # pydantic's own messages name Python types instead of what to write.
    wrong = str(cause) if cause else f"must be {_expected(key)}"
    return _error_at(key, wrong, given)


def _expected(key: str) -> str:
    from syncd.config.values import expected  # only for a wrong value

    return expected(key)


def _error_at(key: str, wrong: str, given: Mapping[str, Given]) -> str:
    origin = given[key].origin if key in given else DEFAULT
    place = _flag(key) if origin == FLAG else f"{origin}: {key}"
    return f"{place}: {wrong}. {_meaning(key)}"


def _flag(key: str) -> str:
    return f"--{key.replace('.', '-').replace('_', '-')}"


def _require_state_outside(settings: Settings, given: Mapping[str, Given]) -> None:
    """
    Require that the state directory is not inside a watched directory.

    Raises:
        ConfigError: It is, or ``comfyui.extra_model_paths`` cannot be used.
    """
    roots = [("models_dir", os.fspath(settings.models_dir))]
    roots += [("a directory of comfyui.extra_model_paths", f.path) for f in extra_folders(settings)]
    inside = next((what for what, root in roots if _is_inside(settings.state_dir, root)), None)
    if inside is not None:
        wrong = f"is inside {inside}: syncd would watch its own database. Choose one outside"
        raise ConfigError(_error_at("state_dir", wrong, given))


def _is_inside(path: Path, root: str) -> bool:
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    return os.path.commonpath([real, real_root]) == real_root


def _key_of(place: tuple[int | str, ...]) -> str:
    """Return the setting at *place* or around it: a table or list is one setting."""
    names = [name for name in place if isinstance(name, str)]
    keys = [".".join(names[:end]) for end in range(len(names), 0, -1)]
    return next((key for key in keys if key in KEYS), keys[0])


def _meaning(key: str) -> str:
    field = KEYS[key]
    made = field.is_required() or field.default_factory is not None
    default = None if made else field.get_default()
    return f"{field.description}{'' if default is None else f' Default: {shown(default)}.'}"


def _missing(key: str, path: Path | None) -> str:
    file = printable(str(path or "config.toml"))
    variable = next(name for name, known in VARIABLES.items() if known == key)
    return (
        f"{key}: is not set. {KEYS[key].description} "
        f"Set it in {file}, as {variable}, or with {_flag(key)}."
    )
