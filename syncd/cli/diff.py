"""``syncd diff``: compares the models directories with the catalog, for other commands too."""

import asyncio
import os
import threading
from collections import Counter

import click

from syncd.cli import tables
from syncd.cli.cloud_session import reaching
from syncd.cli.main import Invocation, json_option, pass_invocation, print_json
from syncd.cli.tables import Cell, Item, Line, Table
from syncd.cloud.capabilities import NO_LISTING
from syncd.config.loader import Loaded
from syncd.core.catalog.drift import Comparison, Finding, FindingKind, LocalFile, sha256_of
from syncd.core.catalog.plan import Action
from syncd.errors import JobError, NeedsOperator, SyncdError
from syncd.formatting import size_text
from syncd.fs import hashing
from syncd.ingest.dry_run import Planned, make_plan
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import Fingerprint, Record, printable

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

COMPARED = frozenset(
    {Action.UPLOAD, Action.NEEDS_SIGN_IN, Action.REGISTERED, Action.DRIFT, Action.FAILED}
    | {Action.CANCELLED}
)
"""Actions of files that should be in the catalog."""


class NotAnswered(SyncdError):
    """The cloud did not answer, or refused our credential."""

    def __init__(self, error: JobError) -> None:
        refused = isinstance(error, NeedsOperator)
        self.exit_code = 77 if refused else 75
        advice = error.advice or ("" if refused else "Try again once it can be reached.")
        super().__init__(f"The catalog cannot be read: {error}. {advice}".rstrip())


def says_no(error: JobError) -> bool:
    """Return whether the server has no listing, rather than being unreachable now."""
    return error.kind in NO_LISTING


def _local_files(planned: Planned) -> list[LocalFile]:
    """Return the files that should be in the catalog, with the hashes that are still valid."""
    files = []
    for step in planned.steps:
        if step.action in COMPARED and step.model_path is not None:
            key = (step.root_id, step.rel_path)
            known = planned.known.get(key)
            unchanged = known is not None and known.fingerprint.same_file_as(step.fingerprint)
            sha256 = known.sha256 if known is not None and unchanged else None
            files.append(LocalFile(key, step.model_path, step.size, sha256))
    return files


class Inquiry:
    """
    Compares the files with the listing of the cloud, or with our own records if it has none.

    Args:
        equal: Keep equal files too; otherwise they are only counted, to save memory.

    After ``ask``, ``listed`` is whether the cloud has a listing, ``kept`` contains the findings,
    and ``unread`` the files that could not be read, with the reason.
    """

    def __init__(self, loaded: Loaded, planned: Planned, *, equal: bool = False) -> None:
        self._loaded = loaded
        self._prints = {(step.root_id, step.rel_path): step.fingerprint for step in planned.steps}
        self._roots = planned.roots
        self._comparison = Comparison(_local_files(planned))
        self._equal = equal
        self.listed = True
        self.kept: list[Finding] = []
        self.counts: Counter[FindingKind] = Counter()
        self.unread: dict[str, str] = {}

    async def ask(self) -> None:
        """Read the listing and compare. Raises ``NotAnswered``."""
        async with reaching(self._loaded) as api:
            try:
                async for record in api.models():
                    at_our_path = self._comparison.file_at(record.model_path) is not None
                    if record.file_hash is None and at_our_path:
                        record = await api.get_model(record.id) or record
                    self._add(record)
            except JobError as error:
                if self.counts or not says_no(error):
                    raise NotAnswered(error) from error
                self.listed = False
        if not self.listed:
            with reading(os.fspath(self._loaded.settings.state_dir), Report) as report:
                own = [] if report is None else report.own_records()
            for record in own:
                self._add(record)
        for finding in self._comparison.finish():
            self._keep(finding)

    @property
    def drifts(self) -> bool:
        """Whether anything differs."""
        return any(each.is_drift for each in self.kept)

    def _add(self, record: Record) -> None:
        for file in self._comparison.unhashed(record):
            self._read(file)
        finding = self._comparison.add(record)
        if finding is not None:
            self._keep(finding)

    def _keep(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        if self._equal or finding.is_drift:
            self.kept.append(finding)

    def _read(self, file: LocalFile) -> None:
        """Hash a file; one that cannot be read has the hash ``""``, which equals none."""
        path = os.path.join(self._roots[file.key[0]].path, file.key[1])
        try:
            sha256 = sha256_of_file(path, self._prints[file.key])
        except JobError as error:
            self.unread[printable(path)] = str(error)
            sha256 = ""
        self._comparison.set_hash(file, sha256)


def sha256_of_file(path: str, fingerprint: Fingerprint) -> str:
    """
    Return the SHA-256 of the file at *path* as 64 hex digits.

    Raises:
        JobError: The file cannot be read, or has another fingerprint.
    """
    plan = hashing.hash_file(path, fingerprint, stop=threading.Event(), on_bytes=lambda count: None)
    return plan.sha256


@click.command()
@json_option
@click.option("--all", "everything", is_flag=True, help="Also list equal files.")
@click.option("--exit-code", "exit_code", is_flag=True, help="Exit with 1 if anything differs.")
@pass_invocation
def diff(invocation: Invocation, as_json: bool, everything: bool, exit_code: bool) -> int:
    """Compare the models directories with the catalog. Nothing is changed."""
    loaded = invocation.load()
    planned = make_plan(loaded)
    inquiry = Inquiry(loaded, planned, equal=everything)
    asyncio.run(inquiry.ask())
    if as_json:
        print_json(
            {
                "source": "catalog" if inquiry.listed else "memory",
                "drift": inquiry.drifts,
                "by_kind": {str(kind): inquiry.counts[kind] for kind in FindingKind},
                "unread": inquiry.unread,
                "findings": [_as_dict(planned, each) for each in inquiry.kept],
            }
        )
    else:
        _show(planned, inquiry)
    return int(exit_code and inquiry.drifts)


def _as_dict(planned: Planned, finding: Finding) -> dict[str, object]:
    file, record = finding.file, finding.record
    document: dict[str, object] = {
        "kind": str(finding.kind),
        "drift": finding.is_drift,
        "model_path": printable(finding.model_path),
        "file": None,
        "record": None,
    }
    if file is not None:
        path, sha256 = _path(planned, finding), file.sha256 or None
        document["file"] = {"path": path, "size": file.size, "sha256": sha256}
    if record is not None:
        document["record"] = {
            "id": record.id,
            "size": record.file_size,
            "sha256": sha256_of(record),
            "status": record.model_status,
        }
    return document


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
