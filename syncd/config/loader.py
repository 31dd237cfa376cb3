"""
Settings: their names, their bounds, and where each value came from.

A flag wins over an environment variable, that over the TOML file, that over the default. ``load``
is the way in: it alone knows the origins, and it lists everything that is wrong at once. No message
made here contains a value, so a secret written under the wrong key stays out of sight.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from syncd.config.credential import CredentialSource, TokenFile, credential_source, webhook_secret
from syncd.config.credential_files import Stored
from syncd.config.extra_paths import extra_folders
from syncd.config.locations import default_state_dir, find_config_file
from syncd.config.reload import JUDGING, LIVE, Reloaded, reloaded
from syncd.config.rules import IGNORE_FILE, rules_for, unknown_types
from syncd.config.settings import (
    KEYS,
    VARIABLES,
    Multipart,
    Settings,
    require_claimed,
    shown,
    value_at,
)
from syncd.config.sources import DEFAULT, Given, from_environment, from_toml, is_section
from syncd.errors import ConfigError
from syncd.types import Session, printable

FLAG = "flag"
"""Origin of a value that a flag gave."""

__all__ = [
    "DEFAULT",
    "IGNORE_FILE",
    "JUDGING",
    "KEYS",
    "LIVE",
    "VARIABLES",
    "CredentialSource",
    "Loaded",
    "Multipart",
    "Reloaded",
    "Settings",
    "Stored",
    "TokenFile",
    "credential_source",
    "extra_folders",
    "find_config_file",
    "load",
    "reloaded",
    "require_claimed",
    "require_known_types",
    "rules_for",
    "shown",
    "value_at",
]


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    Settings with their story.

    ``origins`` has every key of ``KEYS``: ``default``, ``flag``, a variable's name, ``file:line``,
    or for ``api.token``, ``api.team_id`` and ``notify.webhook_secret`` the file that holds it.
    ``config_file`` is the TOML file read, if any.
    """

    settings: Settings
    origins: Mapping[str, str]
    credential: CredentialSource
    config_file: Path | None

    def value(self, key: str) -> object:
        """The value in force of a dotted *key*; what a file of its own holds counts like a given one."""
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
    Read all sources and check them, the credential included.

    Args:
        config_file: The file the operator named; None looks in the usual places.
        overrides: Values of flags by dotted key; None means the flag was not given.
        environ: Environment variables, ``os.environ`` but for tests.

    Raises:
        ConfigError: One line a problem: origin with line number, key, what is wrong, what to do.
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
    Require every type that ``select.types`` and ``select.bundles`` name to be a folder of a root.

    The folder may come later, so a daemon starts without it.

    Raises:
        ConfigError: A type is missing; the text names the nearest one.
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
    import difflib  # only for somebody who mistyped

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
    """Settings of *given*, unless there are *problems* already or more are found."""
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
    """One finding of pydantic in our words: origin, key, what is wrong, what the key is for."""
    cause = error.get("ctx", {}).get("error")
    keys = getattr(cause, "keys", None) or [_key_of(error["loc"])]
    if error["type"] == "missing":
        return _missing(keys[0], path)
    key = next((key for key in keys if key in given), keys[0])
    # No message of pydantic's own is shown: it names Python's types, not what to write.
    wrong = str(cause) if cause else f"must be {_expected(key)}"
    return _said(key, wrong, given)


def _expected(key: str) -> str:
    from syncd.config.values import expected  # only for a wrong value

    return expected(key)


def _said(key: str, wrong: str, given: Mapping[str, Given]) -> str:
    origin = given[key].origin if key in given else DEFAULT
    place = _flag(key) if origin == FLAG else f"{origin}: {key}"
    return f"{place}: {wrong}. {_meaning(key)}"


def _flag(key: str) -> str:
    return f"--{key.replace('.', '-').replace('_', '-')}"


def _require_state_outside(settings: Settings, given: Mapping[str, Given]) -> None:
    """
    The state directory does not lie in a tree that is watched.

    Raises:
        ConfigError: It does, or ``comfyui.extra_model_paths`` cannot be used.
    """
    roots = [("models_dir", os.fspath(settings.models_dir))]
    roots += [("a directory of comfyui.extra_model_paths", f.path) for f in extra_folders(settings)]
    inside = next((what for what, root in roots if _is_inside(settings.state_dir, root)), None)
    if inside is not None:
        wrong = f"lies inside {inside}: syncd would watch its own database. Choose one outside"
        raise ConfigError(_said("state_dir", wrong, given))


def _is_inside(path: Path, root: str) -> bool:
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    return os.path.commonpath([real, real_root]) == real_root


def _key_of(place: tuple[int | str, ...]) -> str:
    """The setting at *place*, or that *place* lies in: a table or list is one setting."""
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
