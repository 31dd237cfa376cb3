"""``syncd doctor``: is everything there that syncd needs, and what helps where it is not?"""

import asyncio
import dataclasses
import json
from collections.abc import Sequence

import click

from syncd.cli.checks import Check, Result, cloud_checks, local_checks
from syncd.cli.main import Invocation, pass_invocation

SCHEMA = 1
"""Version of the ``--json`` output; see docs/schemas/doctor.schema.json."""

_STYLES = {
    Result.OK: "green", Result.WARNING: "yellow", Result.FAILED: "bold red", Result.SKIPPED: "dim",
}  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@click.option("--offline", is_flag=True, help="Do not ask the cloud.")
@pass_invocation
def doctor(invocation: Invocation, as_json: bool, offline: bool) -> int:
    """
    Check everything that syncd needs: credential, cloud, clock, disks, limits, names.

    One request is sent (who am I?) and nothing is written. The exit code is the one that syncd
    would end with for the first check that failed, else 0.
    """
    loaded = invocation.load()
    checks = list(local_checks(loaded))
    if not offline:
        checks += asyncio.run(cloud_checks(loaded))
    code = next((check.code for check in checks if check.result is Result.FAILED), 0)
    if as_json:
        click.echo(json.dumps(_document(checks, code), indent=2))
    else:
        _show(checks)
    return code


def _document(checks: Sequence[Check], code: int) -> dict[str, object]:
    """The ``--json`` output: a written contract."""
    return {"schema": SCHEMA, "checks": list(map(as_dict, checks)), "exit_code": code}


def as_dict(check: Check) -> dict[str, object]:
    """A check as the ``--json`` output has it."""
    members = dataclasses.asdict(check)
    del members["code"]
    return members


def _show(checks: Sequence[Check]) -> None:
    from rich.text import Text

    from syncd.cli.render import blank_table, console

    listed = blank_table(None, "check", "result", "found, and what to do")
    for check in checks:
        text = ". ".join(part.rstrip(".") for part in (check.found, check.advice) if part)
        listed.add_row(check.name, Text(check.result, style=_STYLES[check.result]), Text(text))
    console().print(listed)
