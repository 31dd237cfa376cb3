"""``syncd config``: checks the configuration and shows where each value comes from."""

import json
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import click

from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.tables import Table, render
from syncd.config.loader import Loaded, require_known_types
from syncd.config.settings import KEYS, shown
from syncd.config.sources import DEFAULT
from syncd.types import printable

_ALWAYS_SHOWN = frozenset({"models_dir", "state_dir", "api.base_url", "api.token"})
_SECRET = (
    "api.token", "notify.webhook_url", "notify.webhook_secret", "notify.heartbeat_url",
)  # fmt: skip


@click.group()
def config() -> None:
    """Check and show the configuration."""


@config.command()
@pass_invocation
def check(invocation: Invocation) -> int:
    """Check the configuration; print the settings that are set, and warnings."""
    loaded = invocation.load()
    require_known_types(loaded)
    click.echo(f"{_file(loaded) or 'no configuration file'}: the configuration is valid")
    in_force = [row for row in _rows(loaded) if row[2] != DEFAULT or row[0] in _ALWAYS_SHOWN]
    click.echo(_table(in_force))
    for warning in _warnings(loaded):
        click.echo(f"warning: {warning}")
    return 0


@config.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@pass_invocation
def show(invocation: Invocation, as_json: bool) -> int:
    """Print every setting, its value (secrets as ***) and where it comes from."""
    loaded = invocation.load()
    places = loaded.credential.places()
    if as_json:
        settings = {
            key: {"value": loaded.value(key), "origin": loaded.origins[key]} for key in KEYS
        }
        document = {"config_file": _file(loaded), "settings": settings, "credential_places": places}
        click.echo(json.dumps(document, default=shown, indent=2))
        return 0
    click.echo(_table(_rows(loaded)))
    click.echo(
        "\nThe credential is searched in this order; a user session takes precedence over a key:"
    )
    for number, place in enumerate(places, start=1):
        click.echo(f"  {number}. {place}")
    return 0


def _file(loaded: Loaded) -> str | None:
    return printable(str(loaded.config_file)) if loaded.config_file else None


def _rows(loaded: Loaded) -> list[tuple[str, str, str]]:
    return [(key, shown(loaded.value(key)), loaded.origins[key]) for key in KEYS]


def _table(rows: list[tuple[str, str, str]]) -> str:
    return render([Table(None, ("setting", "value", "origin"), rows)]).removesuffix("\n")


def _warnings(loaded: Loaded) -> Iterator[str]:
    """Yield what is valid but probably not intended."""
    settings, origins = loaded.settings, loaded.origins
    if not os.path.isdir(settings.models_dir):
        yield f"models_dir: {shown(settings.models_dir)} is not a directory that can be seen"
    if origins["api.token"] == DEFAULT:
        yield "no credential: run syncd login, or set api.token_file to a file with a device key"
    if settings.api.token is not None and settings.api.token_file is not None:
        yield "api.token and api.token_file are both set; api.token counts"
    file = _file(loaded)
    if any(origins[key].startswith(f"{file}:") for key in _SECRET):
        path = loaded.config_file
        if path is not None and path.stat().st_mode & 0o077:
            yield f"{file} holds a secret and others may read it; run: chmod 600 {file}"
    if not urlsplit(settings.api.base_url).path.endswith("/api/v1"):
        yield "api.base_url: the path of the cloud API usually ends in /api/v1"
