"""``syncd diff``: compares the models directories with the catalog."""

import asyncio
import json
from typing import Any

import click

from syncd.cli import tables
from syncd.cli.comparison import Inquiry
from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.tables import Cell, Item, Line, Table
from syncd.core.catalog.drift import Finding, FindingKind, sha256_of
from syncd.formatting import size_text
from syncd.ingest.dry_run import Planned, make_plan
from syncd.types import printable

SCHEMA = 1
"""Version of the ``--json`` output; see docs/schemas/diff.schema.json."""

WORDS = {
    FindingKind.EQUAL: "equal",
    FindingKind.LOCAL_ONLY: "only here",
    FindingKind.CLOUD_ONLY: "only in the catalog",
    FindingKind.OTHER_BYTES: "different content in the catalog",
    FindingKind.OTHER_PATH: "different path in the catalog",
    FindingKind.NO_KNOWLEDGE: "no hash in the catalog",
    FindingKind.DISABLED: "disabled in the catalog",
}
UNLISTED = (
    "This server does not list its models, so the files were compared with the records that this "
    "machine registered or adopted."
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@click.option("--all", "everything", is_flag=True, help="Also list equal files.")
@click.option("--exit-code", "exit_code", is_flag=True, help="Exit with 1 if anything differs.")
@pass_invocation
def diff(invocation: Invocation, as_json: bool, everything: bool, exit_code: bool) -> int:
    """Compare the models directories with the catalog. Nothing is changed."""
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
    """Return the displayed path of the file; empty if there is none."""
    if finding.file is None:
        return ""
    root_id, rel_path = finding.file.key
    return printable(planned.roots[root_id].display_path(rel_path))


def _show(planned: Planned, inquiry: Inquiry) -> None:
    items: list[Item] = [] if inquiry.listed else [Line(UNLISTED, "yellow")]
    order = list(FindingKind)
    found = sorted(inquiry.kept, key=lambda each: (order.index(each.kind), each.model_path))
    if found:
        columns = ("difference", "size", "in the catalog", "file", "record")
        items.append(Table(None, columns, [_row(planned, each) for each in found]))
    for path, reason in inquiry.unread.items():
        items.append(Line(f"{path} could not be compared: {reason}", "red"))
    counts = inquiry.counts
    text = ", ".join(f"{counts[kind]} {WORDS[kind]}" for kind in FindingKind if counts[kind])
    tables.show([*items, Line(text or "no files here, and no records in the catalog", "bold")])


def _row(planned: Planned, finding: Finding) -> tuple[Cell | str, ...]:
    size = finding.record.file_size if finding.file is None and finding.record else None
    size = finding.file.size if finding.file is not None else size
    style = "green" if finding.kind is FindingKind.EQUAL else "yellow"
    return (
        Cell(WORDS[finding.kind], style),
        "" if size is None else size_text(size),
        printable(finding.model_path),
        _path(planned, finding),
        "" if finding.record is None else finding.record.id,
    )
