"""``syncd plan``: a dry run that shows what would happen to each file, and why."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import click

from syncd.cli import tables
from syncd.cli.main import Invocation, json_option, pass_invocation, print_json
from syncd.cli.tables import Line, Table, state_cell
from syncd.config.loader import Loaded
from syncd.core.catalog.plan import Action, Step
from syncd.errors import JobError
from syncd.formatting import size_text
from syncd.ingest.comparer import Root
from syncd.ingest.dry_run import Planned, make_plan
from syncd.types import printable

AGENTS_S = 5.0
"""Timeout of the request for the number of agents."""


@click.command()
@json_option
@click.option(
    "--out", metavar="FILE", help="Compare with the catalog and write a plan for `syncd apply`."
)
@pass_invocation
def plan(invocation: Invocation, as_json: bool, out: str | None) -> int:
    """
    Show what would happen to each file, and why. Nothing is uploaded.

    If the cloud says how many agents (machines that download the models) are connected, the summary
    shows how much they would download.
    """
    loaded = invocation.load()
    planned = make_plan(loaded)
    for path, reason in planned.problems.items():
        click.echo(f"syncd: {printable(path)} cannot be read: {reason}", err=True)
    if out is not None:
        from syncd.cli.apply import write_plan

        write_plan(loaded, planned, out)
        return 0
    agents = asyncio.run(_agents(loaded))
    if as_json:
        print_json(_document(planned, agents))
    else:
        _show(planned, agents)
    return 0


async def _agents(loaded: Loaded) -> int | None:
    """Return the number of connected agents; None if the cloud does not say in time."""
    from syncd.cli.cloud_session import reaching

    if loaded.credential.read()[0] is None:
        return None
    try:
        async with asyncio.timeout(AGENTS_S), reaching(loaded) as api:
            return await api.agents()
    except (JobError, TimeoutError):
        return None


def _document(planned: Planned, agents: int | None) -> dict[str, object]:
    roots, steps, target_of = planned.roots, planned.steps, _link_targets(planned.roots)
    return {
        "root": printable(roots[0].path),
        "roots": [
            {"path": printable(root.path), "model_type": root.type_key} for root in roots.values()
        ],
        "files_by_action": dict(Counter(str(step.action) for step in steps)),
        "bytes_to_send": _bytes_to_send(steps),
        "agents": agents,
        "files": [
            {
                "root": printable(roots[step.root_id].path),
                "path": printable(step.rel_path),
                "size": step.size,
                "action": str(step.action),
                "reason": printable(step.reason),
                "rule": printable(step.rule),
                "model_path": None if step.model_path is None else printable(step.model_path),
                "link_target": target_of(step),
            }
            for step in steps
        ],
    }


def _link_targets(roots: Mapping[int, Root]) -> Callable[[Step], str | None]:
    """Return a function from a step to the printable target of its link, or None without a link."""

    @cache
    def real_folder(root_id: int, folder: str) -> str:
        return os.path.realpath(os.path.join(roots[root_id].path, folder))

    def target_of(step: Step) -> str | None:
        folder, name = os.path.split(step.rel_path)
        path = os.path.join(real_folder(step.root_id, folder), name)
        real = os.path.realpath(path) if Path(path).is_symlink() else path
        plain = os.path.join(real_folder(step.root_id, ""), step.rel_path)
        return None if real == plain else printable(real)

    return target_of


def _bytes_to_send(steps: Sequence[Step]) -> int:
    return sum(step.size for step in steps if step.action is Action.UPLOAD)


def _show(planned: Planned, agents: int | None) -> None:
    steps, target_of, rows = planned.steps, _link_targets(planned.roots), []
    for step in sorted(steps, key=lambda step: (list(Action).index(step.action), step.rel_path)):
        path = printable(planned.roots[step.root_id].display_path(step.rel_path))
        target = target_of(step)
        shown = path if target is None else f"{path} -> {target}"
        reason = step.reason if step.rule == step.reason else f"{step.reason} ({step.rule})"
        rows.append((state_cell(step.action), size_text(step.size), shown, printable(reason)))
    counts = Counter(str(step.action) for step in steps)
    text = ", ".join(f"{count} {action}" for action, count in counts.items()) or "no files"
    to_send = _bytes_to_send(steps)
    text += f"; at most {size_text(to_send)} to upload"
    if agents is not None and to_send:
        who = "agent downloads" if agents == 1 else "agents download"
        text += f"; {agents} connected {who} them, {size_text(agents * to_send)} in total"
    table = Table(None, ("action", "size", "file", "reason"), rows)
    tables.show([table, Line(text, "bold")])
