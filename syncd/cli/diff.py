"""``syncd diff``: the tree against the catalog."""

import asyncio
import json
from typing import Any

import click

from syncd.cli.comparison import Inquiry
from syncd.cli.main import Invocation, pass_invocation
from syncd.core.catalog.drift import Finding, FindingKind, sha256_of
from syncd.ingest.dry_run import Planned, make_plan
from syncd.types import printable

SCHEMA = 1
"""Version of the ``--json`` output; see docs/schemas/diff.schema.json."""

WORDS = {
    FindingKind.EQUAL: "in both, and equal",
    FindingKind.LOCAL_ONLY: "only here",
    FindingKind.CLOUD_ONLY: "only in the catalog",
    FindingKind.OTHER_BYTES: "other bytes in the catalog",
    FindingKind.OTHER_PATH: "at another path in the catalog",
    FindingKind.NO_KNOWLEDGE: "the catalog does not tell what it holds",
    FindingKind.DISABLED: "disabled in the catalog",
}
UNLISTED = (
    "This server does not list its models: the tree was compared with what this machine registered "
    "or adopted itself."
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@click.option("--all", "everything", is_flag=True, help="List what is equal as well.")
@click.option("--exit-code", "exit_code", is_flag=True, help="End with 1 if anything differs.")
@pass_invocation
def diff(invocation: Invocation, as_json: bool, everything: bool, exit_code: bool) -> int:
    """Compare the tree with the catalog. Nothing is sent; a running syncd is not disturbed."""
    loaded = invocation.load()
    planned = make_plan(loaded)
    inquiry = Inquiry(loaded, planned, equal=everything)
    asyncio.run(inquiry.ask_cloud(loaded))
    if as_json:
        click.echo(json.dumps(_document(planned, inquiry), indent=2))
    else:
        _show(planned, inquiry)
    return int(exit_code and inquiry.drifts)


def _document(planned: Planned, inquiry: Inquiry) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "source": "catalog" if inquiry.listed else "memory",
        "drift": inquiry.drifts,
        "by_kind": {str(kind): inquiry.counts[kind] for kind in FindingKind},
        "unread": inquiry.unread,
        "findings": [_item(planned, each) for each in inquiry.kept],
    }


def _item(planned: Planned, finding: Finding) -> dict[str, Any]:
    file, record = finding.file, finding.record
    return {
        "kind": str(finding.kind),
        "drift": finding.is_drift,
        "model_path": printable(finding.model_path),
        "file": None
        if file is None
        else {
            "path": _path(planned, finding),
            "size": file.size,
            "sha256": file.sha256 or None,
        },
        "record": None
        if record is None
        else {
            "id": record.id,
            "size": record.file_size,
            "sha256": sha256_of(record),
            "status": record.model_status,
        },
    }


def _path(planned: Planned, finding: Finding) -> str:
    """The file as a person knows it; empty where there is none."""
    if finding.file is None:
        return ""
    root_id, rel_path = finding.file.key
    return printable(planned.roots[root_id].display_path(rel_path))


def _show(planned: Planned, inquiry: Inquiry) -> None:
    from rich.table import Table
    from rich.text import Text

    from syncd.cli.render import console
    from syncd.formatting import size_text

    screen = console()
    if not inquiry.listed:
        screen.print(Text(UNLISTED, style="yellow"))
    if inquiry.kept:
        table = Table(box=None, pad_edge=False)
        for column in ("what", "size", "in the catalog", "file", "record"):
            table.add_column(
                column, justify="right" if column == "size" else "left", overflow="fold"
            )
        for each in sorted(
            inquiry.kept, key=lambda each: (list(FindingKind).index(each.kind), each.model_path)
        ):
            size = each.record.file_size if each.file is None and each.record else None
            size = each.file.size if each.file is not None else size
            table.add_row(
                Text(
                    WORDS[each.kind], style="green" if each.kind is FindingKind.EQUAL else "yellow"
                ),
                "" if size is None else size_text(size),
                Text(printable(each.model_path)),
                Text(_path(planned, each)),
                Text("" if each.record is None else each.record.id),
            )
        screen.print(table)
    for path, reason in inquiry.unread.items():
        screen.print(Text(f"{path} could not be compared: {reason}", style="red"))
    counts = inquiry.counts
    text = ", ".join(f"{counts[kind]} {WORDS[kind]}" for kind in FindingKind if counts[kind])
    screen.print(Text(text or "nothing here, and nothing in the catalog", style="bold"))
