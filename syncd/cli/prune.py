"""``syncd prune``: removes records that this machine registered and whose files are gone."""

import os
import time
from collections.abc import Sequence

import click

from syncd.cli import tables
from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.run import require_credential
from syncd.cli.tables import Table
from syncd.config.loader import Loaded
from syncd.core.catalog.plan_file import Line, PlanAction, records_to_retire
from syncd.formatting import size_text
from syncd.ingest.dry_run import Planned, make_plan
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import printable


@click.command()
@click.option(
    "--yes", is_flag=True, help="Change the catalog; without --yes the records are only listed."
)
@pass_invocation
def prune(invocation: Invocation, yes: bool) -> int:
    """
    Remove records that this syncd registered and whose files are gone or have other content.

    A record is disabled first and deleted by a later prune, each time after catalog.delete_grace_s.
    Records of other machines are never changed.
    """
    loaded = invocation.load()
    planned = make_plan(loaded)
    for path, reason in planned.problems.items():
        click.echo(f"{printable(path)} cannot be read ({reason}), so no record is removed.")
    if planned.problems:
        return 1
    lines = prunable(loaded, planned)
    due = [line for line in lines if line.action is not PlanAction.SKIP]
    _show(lines)
    most = loaded.settings.catalog.delete_most
    if len(due) > most:
        click.echo(
            f"{len(due)} records at once are probably an accident, so none is changed. If the files "
            f"were removed on purpose, raise catalog.delete_most (now {most})."
        )
        return 1
    if not due:
        click.echo("Nothing to prune.")
        return 0
    if not yes:
        click.echo("Nothing was changed. To change the catalog: syncd prune --yes")
        return 0
    from syncd.cli.apply import carry_out

    require_credential(loaded)
    return carry_out(loaded, due)


def prunable(loaded: Loaded, planned: Planned) -> list[Line]:
    """Return the plan lines of our records without a file, in roots that were scanned."""
    roots = {id_: root.path for id_, root in planned.roots.items()}
    here = {(roots[step.root_id], step.rel_path) for step in planned.steps}
    with reading(os.fspath(loaded.settings.state_dir), Report) as report:
        owned = [] if report is None else report.owned()
    owned = [each for each in owned if each.root in roots.values()]
    return list(
        records_to_retire(
            owned,
            here,
            now_ms=time.time_ns() // 1_000_000,
            grace_ms=int(loaded.settings.catalog.delete_grace_s * 1000),
        )
    )


def _show(lines: Sequence[Line]) -> None:
    if not lines:
        return
    rows = [
        (
            str(line.action),
            size_text(line.size),
            printable(line.model_path or ""),
            printable(line.reason),
        )
        for line in lines
    ]
    tables.show([Table(None, ("action", "size", "record", "reason"), rows)])
