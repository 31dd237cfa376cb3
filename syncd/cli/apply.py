"""``syncd apply``, and the plan file that ``syncd plan --out`` writes."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence

import click

from syncd.cli.comparison import Inquiry
from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.run import require_credential
from syncd.config.loader import Loaded
from syncd.core.catalog.plan_file import (
    InvalidPlan,
    Line,
    PlanAction,
    format_plan,
    parse_plan,
    plan_lines,
)
from syncd.daemon.apply_plan import Applied
from syncd.errors import SyncdError
from syncd.ingest.dry_run import Planned
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
    lines = read_agenda(loaded, file)
    return carry_out(loaded, lines)


def carry_out(loaded: Loaded, lines: Sequence[Line]) -> int:
    """Apply *lines*, print the result and return the exit code."""
    from syncd.daemon.service import Service
    from syncd.monitoring.progress import Meter

    service = Service(loaded.settings, loaded.credential, meter=Meter(), once=True)
    applied = asyncio.run(service.apply(lines))
    _tell(applied)
    return applied.exit_code


def read_agenda(loaded: Loaded, file: str) -> list[Line]:
    """
    The lines of the plan in *file*.

    Raises:
        PlanUnusable: It cannot be read, or is not a plan for this cloud.
    """
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


def write_agenda(loaded: Loaded, planned: Planned, file: str) -> None:
    """
    Compare with the catalog and write the plan; a summary is shown.

    Raises:
        NotAnswered: The cloud could not be asked.
        PlanUnusable: The file cannot be written.
    """
    settings = loaded.settings
    inquiry = Inquiry(loaded, planned, equal=True)
    asyncio.run(inquiry.ask_cloud(loaded))
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
    try:
        with open(file, "w", encoding="utf-8") as stream:
            stream.writelines(
                f"{text}\n" for text in format_plan(lines, base_url=settings.api.base_url)
            )
    except OSError as error:
        raise PlanUnusable(f"{printable(file)} cannot be written: {error.strerror}") from None
    _sum_up(lines, file, listed=inquiry.listed)


def _sum_up(lines: Sequence[Line], file: str, *, listed: bool) -> None:
    from syncd.cli.diff import UNLISTED
    from syncd.formatting import size_text

    if not listed:
        click.echo(UNLISTED)
    counts = Counter(line.action for line in lines)
    text = ", ".join(f"{counts[act]} {act}" for act in PlanAction if counts[act]) or "nothing to do"
    to_send = sum(line.size for line in lines if line.action is PlanAction.UPLOAD)
    click.echo(f"{printable(file)}: {text}; {size_text(to_send)} to send")


def _tell(applied: Applied) -> None:
    from syncd.formatting import size_text

    for what, lines in (("refused", applied.refused), ("not done", applied.left)):
        for line, reason in lines:
            name = printable(line.path or line.model_path or "")
            click.echo(f"{what}: {line.action} {name}: {printable(reason)}")
    click.echo(
        f"{len(applied.done)} done ({size_text(applied.sent)} uploaded), {len(applied.refused)} refused, "
        f"{len(applied.left)} not done"
    )
