"""``syncd safe``: may this machine be destroyed?"""

import asyncio
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import click

from syncd.api import CloudApi
from syncd.cli.asking import NotAnswered, says_no, sha256_of_file
from syncd.cli.commands import Invocation, pass_invocation
from syncd.cli.plan import Planned, make_plan
from syncd.config import Loaded
from syncd.core import paths
from syncd.core.drift import WHY, Drift, is_disabled, sha256_of
from syncd.core.preview import Action, Step
from syncd.core.throughput import bytes_per_s
from syncd.errors import JobError, SyncdError
from syncd.model import Record, printable
from syncd.store import HoldRow, Report, reading

SCHEMA = 1
"""Version of the ``--json`` output; see docs/schemas/safe.schema.json."""

NOT_WANTED = frozenset({Action.IGNORED, Action.SHADOWED})


class Asked(StrEnum):
    """How the cloud was asked whether the records are there."""

    LISTING = "listing"
    EACH = "each"
    NOT = "not"  # the server does not list


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A file that would be lost; ``to_send``: it goes by itself if syncd is given the time. Bytes."""

    path: str
    size: int
    why: str
    to_send: bool


@dataclass(slots=True)
class Answer:
    """
    What was found. Sizes are bytes.

    Args:
        not_asked: Records that nobody was asked for.
        passed_over: Model files that the rules leave out.
        absent: Directories of extra_model_paths that are not there and never held a model.
        hold: What everything waits for.
        unknown: Why the cloud could not be asked.
        rate: Bytes a second of the last uploads.
    """

    files: int = 0
    size: int = 0
    at_risk: list[AtRisk] = field(default_factory=list)
    asked: Asked = Asked.NOT
    not_asked: int = 0
    passed_over: int = 0
    passed_over_size: int = 0
    absent: Sequence[str] = ()
    hold: str | None = None
    unknown: SyncdError | None = None
    rate: float | None = None

    @property
    def exit_code(self) -> int:
        """0: safe; 1: it is not; else it is not known."""
        if self.at_risk:
            return 1
        return 0 if self.unknown is None else self.unknown.exit_code

    @property
    def to_send(self) -> int:
        """Bytes that syncd would still send."""
        return sum(each.size for each in self.at_risk if each.to_send)


@click.command()
@click.option("--deep", is_flag=True, help="Read every file again and compare its hash.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@pass_invocation
def safe(invocation: Invocation, deep: bool, as_json: bool) -> int:
    """
    Tell whether all models of this machine are in the catalog: may it be destroyed?

    Looks at the tree itself, at this moment, whether or not syncd runs. Ends with 0 if it is safe,
    with 1 if files would be lost, and with 66, 75 or 77 if that cannot be told.
    """
    loaded = invocation.load()
    planned = make_plan(loaded)
    answer = examine(loaded, planned, deep=deep)
    if as_json:
        click.echo(json.dumps(_document(answer, deep=deep), indent=2))
    else:
        _say(answer, deep=deep)
    return answer.exit_code


def examine(loaded: Loaded, planned: Planned, *, deep: bool) -> Answer:
    """Everything that is wanted: is it registered, is it still the same, is its record in force?"""
    answer = Answer()
    wanted = [step for step in planned.steps if step.action not in NOT_WANTED]
    answer.files, answer.size = len(wanted), sum(step.size for step in wanted)
    models = [s for s in planned.steps if s.action in NOT_WANTED and _is_model(s)]
    answer.passed_over, answer.passed_over_size = len(models), sum(step.size for step in models)
    answer.absent = [printable(path) for path in planned.absent]
    answer.at_risk += [
        AtRisk(printable(path), 0, f"it cannot be looked at: {why}", to_send=False)
        for path, why in planned.problems.items()
    ]
    registered = [step for step in wanted if step.action is Action.REGISTERED]
    answer.at_risk += [
        _unregistered(planned, s) for s in wanted if s.action is not Action.REGISTERED
    ]
    if deep:
        answer.at_risk += _reread(planned, registered)
    if registered:
        try:
            answer.at_risk += asyncio.run(_ask(loaded, planned, registered, answer, deep=deep))
        except SyncdError as error:
            answer.unknown = error
    with reading(os.fspath(loaded.settings.state_dir), Report) as report:
        if report is not None:
            answer.rate = bytes_per_s(report.recent_uploads())
            answer.hold = "; ".join(map(_hold_text, report.holds())) or None
    return answer


def _is_model(step: Step) -> bool:
    return step.size > 0 and paths.ending_of(step.rel_path) in paths.ENDINGS


def _hold_text(hold: HoldRow) -> str:
    return printable(hold.why if hold.advice is None else f"{hold.why.rstrip('.')}. {hold.advice}")


def _shown(planned: Planned, step: Step) -> str:
    return printable(planned.roots[step.root_id].shown(step.rel_path))


def _unregistered(planned: Planned, step: Step) -> AtRisk:
    to_send = step.action is Action.UPLOAD
    why = f"not in the catalog: {step.why}" if to_send else f"{step.action}: {step.why}"
    return AtRisk(_shown(planned, step), step.size, printable(why), to_send)


def _reread(planned: Planned, steps: Sequence[Step]) -> Iterator[AtRisk]:
    for step in steps:
        path = os.path.join(planned.roots[step.root_id].path, step.rel_path)
        try:
            same = sha256_of_file(path, step.fingerprint) == _known_sha256(planned, step)
            why = "its bytes are not those that were registered, although no timestamp moved"
        except JobError as error:
            same, why = False, str(error)
        if not same:
            yield AtRisk(_shown(planned, step), step.size, why, to_send=False)


def _known_sha256(planned: Planned, step: Step) -> str | None:
    return planned.known[step.root_id, step.rel_path].sha256


async def _ask(
    loaded: Loaded, planned: Planned, steps: Sequence[Step], answer: Answer, *, deep: bool
) -> list[AtRisk]:
    """
    The files whose record is not what it was.

    Raises:
        NotAnswered: The cloud could not be asked.
    """
    from syncd.cli.reaching import reaching

    ids = {id_: step for step in steps if (id_ := _record_id(planned, step)) is not None}
    unnamed = {step.model_path: step for step in steps if _record_id(planned, step) is None}
    records: dict[str, Record] = {}
    at_path: list[Record] = []
    async with reaching(loaded) as api:
        try:
            async for listed in api.models():
                if listed.id in ids:
                    records[listed.id] = listed
                if listed.model_path in unnamed:
                    at_path.append(listed)
            answer.asked = Asked.LISTING
        except JobError as error:
            if not says_no(error):
                raise NotAnswered(error) from error
            answer.not_asked = len(unnamed) if deep else len(steps)
            if not deep:
                return []
            answer.asked = Asked.EACH
        at_risk = []
        for id_, step in ids.items():
            # A list that is read page by page may pass over one, or show it in part.
            record = await _whole(api, id_, records.get(id_))
            why = _drift(record, step, _known_sha256(planned, step), loaded)
            if why is not None:
                at_risk.append(AtRisk(_shown(planned, step), step.size, why, to_send=False))
        if answer.asked is Asked.LISTING:
            whole = [await _whole(api, record.id, record) for record in at_path]
            at_risk += _not_found(loaded, planned, unnamed.values(), whole)
        return at_risk


async def _whole(api: CloudApi, id_: str, listed: Record | None) -> Record | None:
    """
    The record as *listed*, read by itself where the listing tells too little of it.

    Raises:
        NotAnswered: The cloud could not be asked.
    """
    if listed is not None and listed.file_hash is not None:
        return listed
    try:
        return await api.get_model(id_)
    except JobError as error:
        raise NotAnswered(error) from error


def _not_found(
    loaded: Loaded, planned: Planned, steps: Iterable[Step], records: Sequence[Record | None]
) -> Iterator[AtRisk]:
    """The files whose record the cloud never named, and that none of *records* stands for."""
    for step in steps:
        sha256 = _known_sha256(planned, step)
        if not any(
            record is not None
            and sha256_of(record) == sha256
            and _drift(record, step, sha256, loaded) is None
            for record in records
        ):
            why = "the cloud did not name its record, and lists none with its bytes at its path"
            yield AtRisk(_shown(planned, step), step.size, why, to_send=False)


def _record_id(planned: Planned, step: Step) -> str | None:
    id_ = planned.known[step.root_id, step.rel_path].record_id
    return None if id_ is None or id_.startswith("unknown:") else id_


def _drift(record: Record | None, step: Step, sha256: str | None, loaded: Loaded) -> str | None:
    hidden = loaded.settings.catalog.register_as == "disabled"
    if record is None:
        return WHY[Drift.MISSING]
    if is_disabled(record) and not hidden:
        return WHY[Drift.DISABLED]
    if record.model_path not in (None, step.model_path):
        return WHY[Drift.MOVED]
    if sha256_of(record) not in (None, sha256):
        return "its record in the catalog tells of other bytes"
    return None


def _document(answer: Answer, *, deep: bool) -> dict[str, Any]:
    to_send = answer.to_send
    return {
        "schema": SCHEMA,
        "safe": answer.exit_code == 0,
        "exit_code": answer.exit_code,
        "files": answer.files,
        "bytes": answer.size,
        "compared_by": "hash" if deep else "stat",
        "records_asked_by": str(answer.asked),
        "records_not_asked": answer.not_asked,
        "passed_over": {"files": answer.passed_over, "bytes": answer.passed_over_size},
        "absent": answer.absent,
        "unknown": None if answer.unknown is None else str(answer.unknown),
        "bytes_to_send": to_send,
        "bytes_per_s": None if answer.rate is None else round(answer.rate),
        "seconds": None
        if answer.rate is None or answer.hold is not None
        else round(to_send / answer.rate),
        "hold": answer.hold,
        "at_risk": [asdict(each) for each in answer.at_risk],
    }


def _say(answer: Answer, *, deep: bool) -> None:
    from syncd.text import size_text

    all_of_it = f"{_count(answer.files)}, {size_text(answer.size)}"
    if answer.at_risk:
        click.echo(
            f"NOT safe: {len(answer.at_risk)} of {all_of_it} would be lost{_how_long(answer)}"
        )
        for each in answer.at_risk:
            click.echo(f"  {each.path}  {size_text(each.size)}  {each.why}")
    elif answer.unknown is not None:
        click.echo(f"NOT known to be safe: {answer.unknown}")
    else:
        by = "read again and equal" if deep else "unchanged since it was registered"
        there = {
            Asked.LISTING: "every record is in the catalog",
            Asked.EACH: f"every record was asked for and is there{_but(answer.not_asked)}",
            Asked.NOT: f"{answer.not_asked} records were not asked for: this server does not list "
            "(--deep asks for each)",
        }[answer.asked]
        text = f"{all_of_it}; every file is {by}, {there}" if answer.files else "no models are here"
        click.echo(f"safe: {text}{_beside(answer)}")


def _but(not_asked: int) -> str:
    if not not_asked:
        return ""
    was = "was not asked for: its id is" if not_asked == 1 else "were not asked for: their ids are"
    return f", but {not_asked} {was} not known"


def _beside(answer: Answer) -> str:
    """What the answer leaves out."""
    from syncd.text import size_text

    text = ""
    if answer.passed_over:
        are = "file%s is" if answer.passed_over == 1 else "files%s are"
        are %= f" ({size_text(answer.passed_over_size)})"
        text += f"; {answer.passed_over} model {are} passed over by the rules: syncd plan"
    if answer.absent:
        text += f"; not there: {', '.join(answer.absent)} (extra_model_paths)"
    return text


def _count(files: int) -> str:
    return "1 file" if files == 1 else f"{files} files"


def _how_long(answer: Answer) -> str:
    from syncd.text import size_text

    if not answer.to_send:
        return "; none of it is sent without a person"
    left = f"; {size_text(answer.to_send)} to send"
    if answer.hold is not None:
        return f"{left}; {answer.hold}"
    if answer.rate is None:
        return f"{left}, how long that takes is not known yet"
    minutes = max(1, round(answer.to_send / answer.rate / 60))
    return f"{left}, about {minutes} min at the last {size_text(answer.rate)}/s"
