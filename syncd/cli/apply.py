"""``syncd apply``, ``syncd prune``, and the plan file that ``syncd plan --out`` writes."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence

import click

from syncd.cli import tables
from syncd.cli.diff import UNLISTED, Inquiry
from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.run import require_credential
from syncd.cli.tables import Table
from syncd.config.loader import Loaded
from syncd.core.catalog.plan_file import (
    InvalidPlan,
    Line,
    PlanAction,
    format_plan,
    parse_plan,
    plan_lines,
    records_to_retire,
)
from syncd.errors import SyncdError
from syncd.formatting import size_text
from syncd.ingest.dry_run import Planned, make_plan
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import printable


class PlanUnusable(SyncdError):
    """The file is no plan that can be applied here."""

    exit_code = 2


@click.command()
@click.argument("file", metavar="FILE")
@pass_invocation
def apply(invocation: Invocation, file: str) -> int:
    """
    Apply the plan in FILE and nothing else. Lines that no longer match are refused.

    syncd must not be running, because a running syncd makes these changes itself.
    """
    loaded = invocation.load()
    require_credential(loaded)
    return carry_out(loaded, read_plan(loaded, file))


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
    rows = [
        (
            line.action,
            size_text(line.size),
            printable(line.model_path or ""),
            printable(line.reason),
        )
        for line in lines
    ]
    if rows:
        tables.show([Table(None, ("action", "size", "record", "reason"), rows)])
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


def carry_out(loaded: Loaded, lines: Sequence[Line]) -> int:
    """Apply *lines*, print the result and return the exit code."""
    from syncd.daemon.service import Service
    from syncd.monitoring.progress import Meter

    service = Service(loaded.settings, loaded.credential, meter=Meter(), once=True)
    applied = asyncio.run(service.apply(lines))
    for what, undone in (("refused", applied.refused), ("not done", applied.left)):
        for line, reason in undone:
            name = printable(line.path or line.model_path or "")
            click.echo(f"{what}: {line.action} {name}: {printable(reason)}")
    click.echo(
        f"{len(applied.done)} done ({size_text(applied.sent)} uploaded), {len(applied.refused)} refused, "
        f"{len(applied.left)} not done"
    )
    return applied.exit_code


def read_plan(loaded: Loaded, file: str) -> list[Line]:
    """Return the lines of the plan in *file*. Raises PlanUnusable."""
    try:
        with open(file, encoding="utf-8") as stream:
            return parse_plan(stream, base_url=loaded.settings.api.base_url)
    except OSError as error:
        raise PlanUnusable(f"{printable(file)} cannot be read: {error.strerror}") from None
    except (InvalidPlan, UnicodeDecodeError) as error:
        raise PlanUnusable(
            f"{printable(file)} cannot be applied: {printable(str(error))}. Make a new one with: "
            "syncd plan --out FILE"
        ) from None


def write_plan(loaded: Loaded, planned: Planned, file: str) -> None:
    """
    Compare with the catalog, write the plan and print a summary.

    Raises:
        NotAnswered: The cloud could not be asked.
        PlanUnusable: The file cannot be written.
    """
    settings = loaded.settings
    inquiry = Inquiry(loaded, planned, equal=True)
    asyncio.run(inquiry.ask())
    with reading(os.fspath(settings.state_dir), Report) as report:
        # An unreadable folder may contain the file of a record, so no record is changed then.
        owned = [] if report is None or planned.problems else report.owned()
    lines = list(
        plan_lines(
            planned.steps,
            inquiry.kept,
            owned,
            roots={id_: root.path for id_, root in planned.roots.items()},
            listed=inquiry.listed,
            on_delete=settings.catalog.on_delete,
            now_ms=time.time_ns() // 1_000_000,
            grace_ms=int(settings.catalog.delete_grace_s * 1000),
        )
    )
    texts = format_plan(lines, base_url=settings.api.base_url)
    try:
        with open(file, "w", encoding="utf-8") as stream:
            stream.writelines(f"{text}\n" for text in texts)
    except OSError as error:
        raise PlanUnusable(f"{printable(file)} cannot be written: {error.strerror}") from None
    if not inquiry.listed:
        click.echo(UNLISTED)
    counts = Counter(line.action for line in lines)
    text = ", ".join(f"{counts[act]} {act}" for act in PlanAction if counts[act]) or "nothing to do"
    to_send = sum(line.size for line in lines if line.action is PlanAction.UPLOAD)
    click.echo(f"{printable(file)}: {text}; {size_text(to_send)} to send")
