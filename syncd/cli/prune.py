"""``syncd prune``: records that this machine registered and has no file for any more."""

import os
import time
from collections.abc import Sequence

import click

from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.run import require_credential
from syncd.config.loader import Loaded
from syncd.core.catalog.plan_file import Line, PlanAction, records_to_retire
from syncd.ingest.dry_run import Planned, make_plan
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import printable


@click.command()
@click.option("--yes", is_flag=True, help="Do it; without this it is only shown.")
@pass_invocation
def prune(invocation: Invocation, yes: bool) -> int:
    """
    Take back records that this syncd registered and whose files are gone or hold other bytes.

    A record is disabled first, and deleted by a later prune, each time after catalog.delete_grace_s.
    Nobody else's record is touched.
    """
    loaded = invocation.load()
    planned = make_plan(loaded)
    for path, reason in planned.problems.items():
        click.echo(f"{printable(path)} cannot be read ({reason}): nothing is concluded from that.")
    if planned.problems:
        return 1
    lines = prunable(loaded, planned)
    due = [line for line in lines if line.action is not PlanAction.SKIP]
    _show(lines)
    most = loaded.settings.catalog.delete_most
    if len(due) > most:
        click.echo(
            f"{len(due)} records at once look like an accident: none is touched. If the files were "
            f"removed on purpose, raise catalog.delete_most (now {most})."
        )
        return 1
    if not due:
        click.echo("Nothing to prune.")
        return 0
    if not yes:
        click.echo("Nothing was done yet. To do it: syncd prune --yes")
        return 0
    from syncd.cli.apply import carry_out

    require_credential(loaded)
    return carry_out(loaded, due)


def prunable(loaded: Loaded, planned: Planned) -> list[Line]:
    """A line for each record of ours without a file here, in a root that was looked at."""
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
    from rich.table import Table
    from rich.text import Text

    from syncd.cli.render import console
    from syncd.formatting import size_text

    if not lines:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("action", "size", "record", "reason"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for line in lines:
        table.add_row(
            Text(str(line.action)),
            size_text(line.size),
            Text(printable(line.model_path or "")),
            Text(printable(line.reason)),
        )
    console().print(table)
