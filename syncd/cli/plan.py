"""``syncd plan``: what would happen to each file, with bytes and reasons; nothing is sent."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import click

from syncd.cli import Invocation, pass_invocation
from syncd.config import Loaded
from syncd.core.preview import Action, Known, Rules, Step, preview
from syncd.errors import RootUnavailable
from syncd.model import FoundFile, Verdict, printable

SCHEMA = 1
"""Version of the ``--json`` output; see docs/schemas/plan.schema.json."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@pass_invocation
def plan(invocation: Invocation, as_json: bool) -> int:
    """Tell what would happen to each file, and why. Nothing is sent and nothing is written."""
    loaded = invocation.load()
    steps = make_plan(loaded)
    if as_json:
        click.echo(json.dumps(as_document(loaded, steps), indent=2))
    else:
        _show(steps)
    return 0


def make_plan(loaded: Loaded) -> list[Step]:
    """
    Walk the tree, look into the store, decide.

    Raises:
        RootUnavailable: The models directory cannot be read, or is empty although it held a model.
        StateError: There is a store, and it cannot be read.
    """
    settings = loaded.settings
    token, _ = loaded.credential.read()
    rules = Rules(
        settings.naming.prefix,
        settings.api.single_put_limit,
        session=token is not None and not token.get_secret_value().startswith("dk-"),
    )
    found, known = _walk(loaded), _known(loaded)
    steps = _judged(loaded, found, preview(found, known, rules))
    held_model = any(file.state != Action.IGNORED for file in known.values())
    if held_model and all(step.action is Action.IGNORED for step in steps):
        raise RootUnavailable(
            f"{printable(os.fspath(settings.models_dir))} holds no model, although it did before. "
            "Nothing was judged: is its disk mounted?"
        )
    return steps


def _walk(loaded: Loaded) -> list[FoundFile]:
    from syncd import scan

    root = os.fspath(loaded.settings.models_dir)

    def problem(rel_path: str, error: OSError) -> None:
        if rel_path == "":
            raise RootUnavailable(
                f"The models directory {printable(root)} cannot be read: {error.strerror}. "
                "Check models_dir, the mount, and the permissions of your account."
            )
        click.echo(f"syncd: {printable(rel_path)} cannot be read: {error.strerror}", err=True)

    return list(scan.walk(root, 0, symlinks=loaded.settings.scan.symlinks, problem=problem))


def _judged(loaded: Loaded, found: Sequence[FoundFile], steps: Sequence[Step]) -> list[Step]:
    """The steps with a look into each file that would be sent: is it a whole model?"""
    from syncd import soundness

    def judged(file: FoundFile, step: Step) -> Step:
        if step.action is not Action.UPLOAD:
            return step
        judgement = soundness.judge(os.fspath(loaded.settings.models_dir), file, lease=False)
        if judgement.verdict in (None, Verdict.WANTED):
            return step
        return replace(step, action=Action(judgement.verdict), why=judgement.why or "")

    return [judged(file, step) for file, step in zip(found, steps, strict=True)]


def _known(loaded: Loaded) -> dict[str, Known]:
    from syncd.store import open_report

    with open_report(os.fspath(loaded.settings.state_dir)) as report:
        if report is None:
            return {}
        return report.known(os.fspath(loaded.settings.models_dir))


def as_document(loaded: Loaded, steps: Sequence[Step]) -> dict[str, object]:
    """The ``--json`` output: a written contract."""
    return {
        "schema": SCHEMA,
        "root": printable(os.fspath(loaded.settings.models_dir)),
        "files_by_action": dict(Counter(str(step.action) for step in steps)),
        "bytes_to_send": _bytes(steps, Action.UPLOAD),
        "files": [
            {
                "path": printable(step.rel_path),
                "size": step.size,
                "action": str(step.action),
                "why": printable(step.why),
                "model_path": None if step.model_path is None else printable(step.model_path),
            }
            for step in steps
        ],
    }


def _bytes(steps: Sequence[Step], action: Action) -> int:
    return sum(step.size for step in steps if step.action is action)


def _show(steps: Sequence[Step]) -> None:
    from rich.table import Table
    from rich.text import Text

    from syncd.cli.render import STYLES, console, size_text

    screen = console()
    table = Table(box=None, pad_edge=False)
    for column in ("action", "size", "file", "why"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for step in sorted(steps, key=lambda step: (list(Action).index(step.action), step.rel_path)):
        table.add_row(
            Text(str(step.action), style=STYLES.get(str(step.action), "")),
            size_text(step.size),
            Text(printable(step.rel_path)),
            Text(printable(step.why)),
        )
    screen.print(table)
    counts = Counter(str(step.action) for step in steps)
    text = ", ".join(f"{count} {action}" for action, count in counts.items()) or "no files"
    to_send = _bytes(steps, Action.UPLOAD)
    screen.print(Text(f"{text}; at most {size_text(to_send)} to send", style="bold"))
