"""``syncd sandbox``: runs the simulated cloud in the foreground, to try syncd."""

import json
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from syncd.types import printable

if TYPE_CHECKING:
    from syncd.sandbox.faults import Rule
    from syncd.sandbox.history import Entry
    from syncd.sandbox.server import Sandbox
    from syncd.sandbox.switches import Switches


def _faults(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> "list[Rule]":
    from syncd.sandbox.faults import Rule

    try:
        return [Rule.of(_json(text)) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _switches(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> "Switches":
    from syncd.sandbox.switches import Switches

    try:
        return Switches.of(dict(map(_assignment, texts)))
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error)) from None


PORT = click.IntRange(0, 65_535)


@click.command()
@click.option(
    "--dir", "folder", metavar="DIR", help="Keep the objects there, not in a temporary one."
)
@click.option("--port", default=0, type=PORT, help="Port of the API; 0 takes a free one.")
@click.option(
    "--store-port", default=0, type=PORT, help="Port of the object store; 0 takes a free one."
)
@click.option(
    "--switch",
    "switches",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_switches,
    help="E.g. listing_off=404.",
)
@click.option(
    "--fault", "faults", multiple=True, metavar="JSON", callback=_faults,
    help='E.g. {"fault": "lost_answer"}.',
)  # fmt: skip
@click.option("--seed", default=0, help="Of keys, ids and the faults' dice.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def sandbox(
    folder: str | None,
    port: int,
    store_port: int,
    switches: "Switches",
    faults: "Sequence[Rule]",
    seed: int,
    as_json: bool,
) -> int:
    """Run a simulated cloud on this machine until Ctrl-C; prints one line per request."""
    from syncd.sandbox.server import Sandbox

    def show(entry: "Entry") -> None:
        click.echo(json.dumps(asdict(entry)) if as_json else _line(entry))

    try:
        cloud = Sandbox(
            folder,
            switches=switches,
            faults=faults,
            port=port,
            store_port=store_port,
            seed=seed,
            listener=show,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return _serve(cloud, as_json)


def _serve(cloud: "Sandbox", as_json: bool) -> int:
    ends = {signal.SIGINT, signal.SIGTERM}
    for number in ends:  # background jobs of a shell ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    # Blocked, a signal stays pending until sigwait. Else one just before a wait would be missed.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with cloud:
            _show_access(cloud, as_json)
            signal.sigwait(ends)
    except OSError as error:
        raise click.ClickException(f"The sandbox cannot start: {error}") from error
    return 0


def _show_access(cloud: "Sandbox", as_json: bool) -> None:
    names = (
        "base_url", "device_key", "session_token", "refresh_token", "team_id", "email", "password",
    )  # fmt: skip
    access = {name: getattr(cloud, name) for name in names}
    if as_json:
        click.echo(json.dumps(access))
        return
    for name, value in access.items():
        click.echo(f"{name:14} {value}")
    click.echo("")


def _line(entry: "Entry") -> str:
    at = time.strftime("%H:%M:%S", time.localtime(entry.at_ms / 1000))
    status = "lost" if entry.answered is None else str(entry.answered)
    facts = {"part": entry.part, "size": entry.size, "fault": entry.fault, "error": entry.error}
    shown = [f"{name}={value}" for name, value in facts.items() if value is not None]
    what = entry.model_path or entry.storage_key or entry.path
    return printable(" ".join([at, status, entry.call, what, *shown]))


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f'{text!r} is not JSON such as {{"fault": "lost_answer"}}') from None


def _assignment(text: str) -> tuple[str, Any]:
    """``name=value``, where the value is JSON, or a plain word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
