"""What commands that only read ask the cloud, and how they end where it does not answer."""

import os
import threading
from collections import Counter

from syncd.cli.cloud_session import reaching
from syncd.cloud.capabilities import NO_LISTING
from syncd.cloud.client import CloudClient
from syncd.config.loader import Loaded
from syncd.core.catalog.drift import Comparison, Finding, FindingKind, LocalFile
from syncd.core.catalog.plan import Action
from syncd.errors import JobError, NeedsOperator, SyncdError
from syncd.fs import hashing
from syncd.ingest.dry_run import Planned
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import Fingerprint, Record, printable

COMPARED = frozenset(
    {Action.UPLOAD, Action.NEEDS_SIGN_IN, Action.REGISTERED, Action.DRIFT, Action.FAILED}
    | {Action.CANCELLED}
)
"""What is wanted in the catalog, and may be there; the others have no place in it."""


class NotAnswered(SyncdError):
    """The cloud did not answer, or not us."""

    def __init__(self, error: JobError) -> None:
        person = isinstance(error, NeedsOperator)
        self.exit_code = 77 if person else 75
        advice = error.advice or ("" if person else "Try again once it can be reached.")
        super().__init__(f"The catalog cannot be read: {error}. {advice}".rstrip())


def says_no(error: JobError) -> bool:
    """Does it say that this server has no such call, rather than that it cannot be asked now?"""
    return error.kind in NO_LISTING


def own_records(loaded: Loaded) -> list[Record]:
    """What this machine remembers of the catalog, for a server that does not list."""
    with reading(os.fspath(loaded.settings.state_dir), Report) as report:
        return [] if report is None else report.own_records()


def locals_of(planned: Planned) -> list[LocalFile]:
    """The files that should be in the catalog, with the hashes that are still true."""
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
    A tree compared with what the cloud lists, or with what is remembered where it does not.

    Args:
        equal: Keep what is equal as well; else it is only counted, so that the memory that a large
            catalog takes is that of its differences.

    Afterwards ``listed`` says which of the two it was, ``kept`` what was found, and
    ``unread`` which files could not be read for it, and why.
    """

    def __init__(self, loaded: Loaded, planned: Planned, *, equal: bool = False) -> None:
        self._loaded = loaded
        self._prints = {(step.root_id, step.rel_path): step.fingerprint for step in planned.steps}
        self._roots = planned.roots
        self._comparison = Comparison(locals_of(planned))
        self._equal = equal
        self.listed = True
        self.kept: list[Finding] = []
        self.counts: Counter[FindingKind] = Counter()
        self.unread: dict[str, str] = {}

    async def ask_cloud(self, loaded: Loaded) -> None:
        """Ask over a connection of its own; see ``ask``."""
        async with reaching(loaded) as api:
            await self.ask(api)

    async def ask(self, api: CloudClient) -> None:
        """
        Read the listing and compare.

        Raises:
            NotAnswered: The cloud could not be asked.
        """
        try:
            async for record in api.models():
                self._add(await self._whole(api, record))
        except JobError as error:
            if self.counts or not says_no(error):
                raise NotAnswered(error) from error
            self.listed = False
            for record in own_records(self._loaded):
                self._add(record)
        for finding in self._comparison.finish():
            self._keep(finding)

    @property
    def drifts(self) -> bool:
        """Does anything differ?"""
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

    async def _whole(self, api: CloudClient, record: Record) -> Record:
        """The record, read by itself where the listing leaves out what a file's place asks for."""
        if record.file_hash is None and self._comparison.file_at(record.model_path) is not None:
            return await api.get_model(record.id) or record
        return record

    def _read(self, file: LocalFile) -> None:
        """Learn its hash; a file that cannot be read has none, and equals nothing."""
        path = os.path.join(self._roots[file.key[0]].path, file.key[1])
        try:
            sha256 = sha256_of_file(path, self._prints[file.key])
        except JobError as error:
            self.unread[printable(path)] = str(error)
            sha256 = ""
        self._comparison.set_hash(file, sha256)


def sha256_of_file(path: str, fingerprint: Fingerprint) -> str:
    """
    The SHA-256 of the file at *path*, 64 hex digits.

    Raises:
        JobError: It cannot be read, or it is not the file of that fingerprint.
    """
    plan = hashing.hash_file(path, fingerprint, stop=threading.Event(), on_bytes=lambda count: None)
    return plan.sha256
