"""``syncd safe``: checks whether this machine can be destroyed without losing models."""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

import click

from syncd.cli.diff import NotAnswered, says_no, sha256_of_file
from syncd.cli.main import Invocation, json_option, pass_invocation, print_json
from syncd.cloud.client import CloudClient
from syncd.config.loader import Loaded
from syncd.core.catalog.drift import REASONS, Drift, is_disabled, sha256_of
from syncd.core.catalog.plan import Action, Step
from syncd.core.files import naming
from syncd.errors import JobError, SyncdError
from syncd.formatting import size_text
from syncd.ingest.dry_run import Planned, make_plan
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import Record, printable

NOT_WANTED = frozenset({Action.IGNORED, Action.SHADOWED})

IN_CATALOG = frozenset({Action.REGISTERED, Action.DRIFT})
"""Actions of files that were in the catalog; only the cloud knows whether they still are."""


class Asked(StrEnum):
    """How the cloud was asked whether the records are there."""

    LISTING = "listing"
    EACH = "each"
    NOT = "not"  # the server does not list


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A file that would be lost; ``to_send``: a running syncd uploads it."""

    path: str
    size: int
    reason: str
    to_send: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """
    A file whose bytes should be in the catalog.

    Args:
        record_id: Our record of it; None if unknown.
        otherwise: What to report if no record holds its bytes; None: what became of our record.
    """

    step: Step
    sha256: str | None
    record_id: str | None = None
    otherwise: AtRisk | None = None


@dataclass(slots=True)
class Answer:
    """
    The result; docs/schemas/safe.schema.json describes most fields.

    Args:
        absent: Directories of extra_model_paths that do not exist and never held a model.
        hold: The reason why all uploads wait.
        unknown: Why the cloud could not be asked.
    """

    files_wanted: int = 0
    bytes_wanted: int = 0
    at_risk: list[AtRisk] = field(default_factory=list)
    unexamined: Mapping[str, str] = field(default_factory=dict)
    asked: Asked = Asked.NOT
    not_asked: int = 0
    skipped: int = 0
    skipped_size: int = 0
    absent: Sequence[str] = ()
    hold: str | None = None
    unknown: SyncdError | None = None

    @property
    def exit_code(self) -> int:
        """0: safe; 1: not safe; other: unknown."""
        if self.at_risk or self.unexamined or self.all_skipped:
            return 1
        return 0 if self.unknown is None else self.unknown.exit_code

    @property
    def all_skipped(self) -> bool:
        """Whether the rules exclude every model file here."""
        return self.skipped > 0 and not self.files_wanted

    @property
    def bytes_at_risk(self) -> int:
        return sum(each.size for each in self.at_risk)

    @property
    def to_send(self) -> int:
        """Bytes that a running syncd still uploads."""
        return sum(each.size for each in self.at_risk if each.to_send)


@click.command()
@click.option("--deep", is_flag=True, help="Read every file again and compare its hash.")
@json_option
@pass_invocation
def safe(invocation: Invocation, deep: bool, as_json: bool) -> int:
    """
    Check whether every model on this machine is in the catalog, so that the machine can be destroyed.

    Scans the models directories now, whether or not syncd is running. Exits with 0 if the machine is
    safe to destroy, with 1 if files would be lost, and with 66, 75 or 77 if this is unknown.
    """
    loaded = invocation.load()
    planned = make_plan(loaded)
    answer = examine(loaded, planned, deep=deep)
    if as_json:
        print_json(as_document(answer, deep=deep))
    else:
        _say(answer, deep=deep)
    return answer.exit_code


def examine(loaded: Loaded, planned: Planned, *, deep: bool) -> Answer:
    """Check that each selected file is registered, unchanged, and that its record is active."""
    wanted = [step for step in planned.steps if step.action not in NOT_WANTED]
    models = [
        step
        for step in planned.steps
        if step.action in NOT_WANTED
        and step.size
        and naming.ending_of(step.rel_path) in naming.ENDINGS
    ]
    answer = Answer(
        files_wanted=len(wanted),
        bytes_wanted=_size_of(wanted),
        unexamined={printable(path): reason for path, reason in planned.problems.items()},
        skipped=len(models),
        skipped_size=_size_of(models),
        absent=[printable(path) for path in planned.absent],
    )
    found = [_expected(planned, step, deep=deep) for step in wanted]
    answer.at_risk = [each for each in found if isinstance(each, AtRisk)]
    expected = [each for each in found if isinstance(each, Expected)]
    if expected:
        try:
            answer.at_risk += asyncio.run(_ask(loaded, planned, expected, answer, deep=deep))
        except SyncdError as error:
            answer.unknown = error
    with reading(os.fspath(loaded.settings.state_dir), Report) as report:
        if report is not None:
            texts = [
                ". ".join(text.rstrip(".") for text in (hold.reason, hold.advice) if text)
                for hold in report.holds()
            ]
            answer.hold = printable("; ".join(texts)) or None
    return answer


def _size_of(steps: Iterable[Step]) -> int:
    return sum(step.size for step in steps)


def _at_risk(planned: Planned, step: Step, reason: str, *, to_send: bool = False) -> AtRisk:
    path = printable(planned.roots[step.root_id].display_path(step.rel_path))
    return AtRisk(path, step.size, printable(reason), to_send)


def _expected(planned: Planned, step: Step, *, deep: bool) -> Expected | AtRisk:
    """Return what the catalog should hold of a wanted file, or why the file is at risk anyway."""
    sha256 = failure = None
    if deep:
        path = os.path.join(planned.roots[step.root_id].path, step.rel_path)
        try:
            sha256 = sha256_of_file(path, step.fingerprint)
        except JobError as error:
            failure = str(error)
    if step.action not in IN_CATALOG:
        to_send = step.action is Action.UPLOAD
        state = "not in the catalog" if to_send else step.action
        at_risk = _at_risk(planned, step, f"{state}: {step.reason}", to_send=to_send)
        # Hashed, it may turn out to be in the catalog although nothing here remembers it.
        return at_risk if sha256 is None else Expected(step, sha256, otherwise=at_risk)
    known = planned.known[step.root_id, step.rel_path]
    if failure is not None:
        return _at_risk(planned, step, failure)
    if deep and sha256 != known.sha256:
        changed = "its content is not what was registered, although no timestamp changed"
        return _at_risk(planned, step, changed)
    unnamed = known.record_id is None or known.record_id.startswith("unknown:")
    return Expected(step, known.sha256, None if unnamed else known.record_id)


async def _ask(
    loaded: Loaded, planned: Planned, expected: Sequence[Expected], answer: Answer, *, deep: bool
) -> list[AtRisk]:
    """Return the files whose bytes the catalog does not hold. Raises NotAnswered."""
    from syncd.cli.cloud_session import reaching

    async with reaching(loaded) as api:
        listed = await _listed(api, expected)
        if listed is None and not deep:
            answer.not_asked = len(expected)
            return [each.otherwise for each in expected if each.otherwise is not None]
        answer.asked = Asked.EACH if listed is None else Asked.LISTING
        at_risk = []
        for each in expected:
            if listed is None and each.record_id is None and each.otherwise is None:
                answer.not_asked += 1
            elif (reason := await _missing(loaded, api, listed or [], each)) is not None:
                at_risk.append(each.otherwise or _at_risk(planned, each.step, reason))
        return at_risk


async def _listed(api: CloudClient, expected: Iterable[Expected]) -> list[Record] | None:
    """Return the listed records that may hold the files; None: the server does not list."""
    ids = {each.record_id for each in expected}
    paths = {each.step.model_path for each in expected}
    try:
        return [r async for r in api.models() if r.id in ids or r.model_path in paths]
    except JobError as error:
        if says_no(error):
            return None
        raise NotAnswered(error) from error


async def _missing(
    loaded: Loaded, api: CloudClient, listed: Sequence[Record], each: Expected
) -> str | None:
    """Why no record holds the bytes of a file at its path, or None if one does."""
    reason = "the cloud did not name its record, and lists none with its bytes at its path"
    if each.record_id is not None:
        own = next((record for record in listed if record.id == each.record_id), None)
        # A listing that is read page by page may skip a record, or show it in part.
        drift = _drift(await _whole(api, each.record_id, own), each.step, each.sha256, loaded)
        if drift is None:
            return None
        reason = drift
    for record in listed:
        if record.model_path == each.step.model_path and record.id != each.record_id:
            whole = await _whole(api, record.id, record)
            holds = whole is not None and sha256_of(whole) == each.sha256
            if holds and _drift(whole, each.step, each.sha256, loaded) is None:
                return None
    return reason


async def _whole(api: CloudClient, id_: str, listed: Record | None) -> Record | None:
    """Return *listed*, or fetch the record if the listing has no hash."""
    if listed is not None and listed.file_hash is not None:
        return listed
    try:
        return await api.get_model(id_)
    except JobError as error:
        raise NotAnswered(error) from error


def _drift(record: Record | None, step: Step, sha256: str | None, loaded: Loaded) -> str | None:
    if record is None:
        return REASONS[Drift.MISSING]
    if is_disabled(record) and loaded.settings.catalog.register_as != "disabled":
        return REASONS[Drift.DISABLED]
    if record.model_path not in (None, step.model_path):
        return REASONS[Drift.MOVED]
    if sha256_of(record) not in (None, sha256):
        return "its record in the catalog has another hash"
    return None


def as_document(answer: Answer, *, deep: bool) -> dict[str, object]:
    return {
        "safe": answer.exit_code == 0,
        "exit_code": answer.exit_code,
        "files_wanted": answer.files_wanted,
        "bytes_wanted": answer.bytes_wanted,
        "files_at_risk": len(answer.at_risk),
        "bytes_at_risk": answer.bytes_at_risk,
        "compared_by": "hash" if deep else "stat",
        "records_asked_by": str(answer.asked),
        "records_not_asked": answer.not_asked,
        "skipped": {"files": answer.skipped, "bytes": answer.skipped_size},
        "absent": answer.absent,
        "unknown": None if answer.unknown is None else str(answer.unknown),
        "bytes_to_send": answer.to_send,
        "hold": answer.hold,
        "at_risk": [asdict(each) for each in answer.at_risk],
        "unexamined": [
            {"path": path, "reason": reason} for path, reason in answer.unexamined.items()
        ],
    }


def _say(answer: Answer, *, deep: bool) -> None:
    if answer.exit_code == 1:
        click.echo(f"NOT safe: {'; '.join(_dangers(answer))}")
        for each in answer.at_risk:
            click.echo(f"  {each.path}  {size_text(each.size)}  {each.reason}")
        for path, reason in answer.unexamined.items():
            click.echo(f"  {path}  cannot be examined: {reason}")
    elif answer.unknown is not None:
        click.echo(f"NOT known to be safe: {answer.unknown}")
    else:
        not_asked, wanted = answer.not_asked, _count(answer.files_wanted, answer.bytes_wanted)
        by = "read again and equal" if deep else "unchanged since it was registered"
        there = "every record is in the catalog"
        if answer.asked is Asked.NOT:
            there = f"records not checked: {not_asked}; this server has no list (try --deep)"
        elif not_asked:
            there = f"every known record is in the catalog, records without an id: {not_asked}"
        text = f"{wanted}; every file is {by}, {there}"
        text = text if answer.files_wanted else "no models are here"
        click.echo(f"safe: {text}{_beside(answer)}")


def _dangers(answer: Answer) -> Iterator[str]:
    """Yield what keeps the answer from being "safe", one clause each."""
    if answer.at_risk:
        yield (
            f"{len(answer.at_risk)} of {answer.files_wanted} files would be lost,"
            f" {size_text(answer.bytes_at_risk)} of {size_text(answer.bytes_wanted)}"
        )
        if answer.to_send:
            yield f"{size_text(answer.to_send)} to send"
            yield from filter(None, [answer.hold])
        else:
            yield "none of it is uploaded automatically"
    if answer.unknown is not None:
        yield f"the other files could not be checked: {str(answer.unknown).rstrip('.')}"
    if answer.unexamined:
        count = len(answer.unexamined)
        yield f"{count} {'place' if count == 1 else 'places'} cannot be examined"
    if answer.all_skipped:
        yield (
            "the rules exclude every model file here:"
            f" {_count(answer.skipped, answer.skipped_size)}; syncd plan shows the rule of each file"
        )


def _beside(answer: Answer) -> str:
    """Describe the files that the answer leaves out."""
    text = ""
    if answer.skipped:
        count = _count(answer.skipped, answer.skipped_size)
        text += f"; models skipped by the rules: {count} (see syncd plan)"
    if answer.absent:
        text += f"; not there: {', '.join(answer.absent)} (extra_model_paths)"
    return text


def _count(files: int, size: int) -> str:
    return f"{files} {'file' if files == 1 else 'files'}, {size_text(size)}"
