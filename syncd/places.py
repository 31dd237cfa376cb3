"""Where things lie before any setting is read: the configuration file and the state directory."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """The first of ``$STATE_DIRECTORY`` (set by systemd), else the platform's state folder."""
    first = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(first or platformdirs.user_state_dir("syncd")).absolute()


def find_config_file(environ: Mapping[str, str]) -> Path | None:
    """The first ``config.toml`` in systemd's folder, the user's, then ``/etc/syncd``."""
    return next((path for path in _config_files(environ) if os.path.isfile(path)), None)


def _config_files(environ: Mapping[str, str]) -> Sequence[Path]:
    first = environ.get("CONFIGURATION_DIRECTORY", "").split(":")[0]
    folders = [first] if first else []
    folders += [platformdirs.user_config_dir("syncd"), "/etc/syncd"]
    return [Path(folder) / "config.toml" for folder in folders]


def state_dir_of(
    flag: str | None, config_file: str | os.PathLike[str] | None, environ: Mapping[str, str]
) -> Path:
    """
    The state directory in force, for whoever cannot wait for all settings to be read and checked.

    Args:
        flag: ``--state-dir``, if it was given.
        config_file: The file the operator named; None looks in the usual places.

    Raises:
        OSError, ValueError: The file cannot be read, or is not TOML.
    """
    named = flag or environ.get("SYNCD_STATE_DIR")
    file = Path(config_file) if config_file is not None else find_config_file(environ)
    if not named and file is not None:
        named = tomllib.loads(file.read_bytes().decode()).get("state_dir")
    return Path(named).expanduser().absolute() if named else default_state_dir(environ)
