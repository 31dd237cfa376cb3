"""
The plan file of `syncd plan --out`: users can read it, delete lines, and apply it.

The format is JSON Lines. The first line names the cloud, and every other line is an action. `syncd apply`
refuses a line whose file or record has changed and continues with the others.
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any

from syncd.core.catalog.drift import Finding, FindingKind
from syncd.core.catalog.plan import Action, Step
from syncd.core.files.search_paths import PathKey
from syncd.types import Fingerprint

SCHEMA = 1
LINE_MAX = 64 * 1024


class PlanAction(StrEnum):
    UPLOAD = "upload"  # upload and register the file; disable the record that it replaces
    ADOPT = "adopt"  # use the existing record with the same content
    RENAME = "rename"  # change the path of a renamed file's record
    DISABLE = "disable"  # disable an own record
    DELETE = "delete"  # delete an own record
    SKIP = "skip"  # nothing


OF_FILES = frozenset({PlanAction.UPLOAD, PlanAction.ADOPT, PlanAction.RENAME})
SENDING_NOTHING = frozenset({PlanAction.ADOPT, PlanAction.RENAME})


@dataclass(frozen=True, slots=True)
class Line:
    """
    A line of the plan.

    Args:
        root, path: The file, or the last known file of a record, as the operating system spells it.
        fingerprint: The fingerprint of the file when the plan was made; None if there is no file.
        record_id: The record that the line changes.
        was: The previous path of a renamed file below the same root.
    """

    action: PlanAction
    reason: str
    root: str
    path: str
    size: int = 0
    fingerprint: Fingerprint | None = None
    model_path: str | None = None
    sha256: str | None = None
    record_id: str | None = None
    was: str | None = None


class InvalidPlan(ValueError):
    """The text is not a plan for this cloud; the message names the line."""


def format_plan(lines: Iterable[Line], *, base_url: str) -> Iterator[str]:
    """Yield the lines of text, without line ends."""
    yield json.dumps({"syncd_plan": SCHEMA, "base_url": base_url})
    for line in lines:
        members = {name: value for name, value in asdict(line).items() if value is not None}
        if line.fingerprint is not None:
            members["fingerprint"] = line.fingerprint._asdict()
        yield json.dumps(members)


def parse_plan(texts: Iterable[str], *, base_url: str) -> list[Line]:
    """Parse a plan; empty lines are ignored. Raises InvalidPlan."""
    lines: list[Line] = []
    headed = False
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        members = _object(number, text)
        if headed:
            lines.append(_line(number, members))
            continue
        headed = True
        if members.get("syncd_plan") != SCHEMA:
            raise InvalidPlan(f"line {number}: not a plan that this version of syncd can apply")
        if members.get("base_url") != base_url:
            raise InvalidPlan(
                f"line {number}: the plan is for {members.get('base_url')}, and api.base_url is "
                f"{base_url}"
            )
    if not headed:
        raise InvalidPlan("the file is empty")
    of_files = Counter((line.root, line.path) for line in lines if line.action in OF_FILES)
    for (_, path), count in of_files.items():
        if count > 1:
            raise InvalidPlan(f"{path!r} is in the plan twice")
    return lines


def _object(number: int, text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text) if len(text) <= LINE_MAX else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidPlan(f"line {number}: not a JSON object")
    return value


_TEXTS = ("reason", "root", "path")
_OPTIONAL = ("model_path", "sha256", "record_id", "was")
_NEEDED: Mapping[PlanAction, tuple[str, ...]] = {
    PlanAction.UPLOAD: ("fingerprint", "model_path"),
    PlanAction.ADOPT: ("fingerprint", "model_path", "sha256", "record_id"),
    PlanAction.RENAME: ("fingerprint", "model_path", "sha256", "record_id", "was"),
    PlanAction.DISABLE: ("record_id",),
    PlanAction.DELETE: ("record_id",),
    PlanAction.SKIP: (),
}


def _line(number: int, members: Mapping[str, Any]) -> Line:
    unknown = members.keys() - {field.name for field in fields(Line)}
    if unknown:
        raise InvalidPlan(f"line {number}: {min(unknown)!r} is not a member of a plan line")
    try:
        action = PlanAction(members.get("action", ""))
    except ValueError:
        raise InvalidPlan(
            f"line {number}: action must be one of {', '.join(PlanAction)}, not {members.get('action')!r}"
        ) from None
    for name in (*_TEXTS, *(n for n in _OPTIONAL if n in members)):
        if not isinstance(members.get(name), str):
            raise InvalidPlan(f"line {number}: {name} must be a string")
        if not _is_valid(name, members[name]):
            raise InvalidPlan(f"line {number}: {name} is not valid")
    for name in _NEEDED[action]:
        if members.get(name) is None:
            raise InvalidPlan(f"line {number}: {action} needs {name}")
    size = members.get("size", 0)
    if type(size) is not int:
        raise InvalidPlan(f"line {number}: size must be an integer")
    fingerprint = _fingerprint(number, members.get("fingerprint"))
    return Line(**{**members, "action": action, "size": size, "fingerprint": fingerprint})


def _is_valid(name: str, text: str) -> bool:
    try:
        if name in ("sha256", "record_id"):
            text.encode()
        return name not in ("root", "path", "was") or b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _fingerprint(number: int, value: object) -> Fingerprint | None:
    if value is None:
        return None
    named = isinstance(value, dict) and value.keys() == set(Fingerprint._fields)
    if isinstance(value, dict) and named and all(type(n) is int for n in value.values()):
        return Fingerprint(**value)
    raise InvalidPlan(f"line {number}: fingerprint is not {', '.join(Fingerprint._fields)}")


@dataclass(frozen=True, slots=True)
class Owned:
    """
    A record that this machine registered.

    Args:
        root, path: The path of its file, as the operating system spells it.
        since: When syncd noticed that the file is gone or replaced (Unix ms); None: not yet.
        replaced: The path has different content now.
        retired_at: When this machine disabled the record (Unix ms); None: it did not.
    """

    record_id: str
    model_path: str
    sha256: str
    size: int
    root: str
    path: str
    since: int | None
    replaced: bool
    retired_at: int | None


def records_to_retire(
    owned: Iterable[Owned], here: Collection[tuple[str, str]], *, now_ms: int, grace_ms: int
) -> Iterator[Line]:
    """
    Yield a line for each own record without a file *here*: disable it first, and delete it later.

    *grace_ms* is how long the file must be gone, and how long the record must be disabled before it is
    deleted.
    """
    for record in owned:
        if not record.replaced and (record.root, record.path) in here:
            continue
        action, since, what = PlanAction.DISABLE, record.since, "its file is gone"
        if record.retired_at is not None:
            action, since, what = PlanAction.DELETE, record.retired_at, "it was disabled here"
        elif record.replaced:
            what = "its path has different content now"
        reason = what
        if since is None and grace_ms:
            action, reason = PlanAction.SKIP, f"{what}, but syncd has not noticed it yet"
        elif since is not None and since > now_ms - grace_ms:
            left_s = (since + grace_ms - now_ms) // 1000
            action = PlanAction.SKIP
            reason = f"{what}; {left_s} s of catalog.delete_grace_s remain"
        line = Line(action, reason, record.root, record.path, record.size)
        yield replace(
            line, model_path=record.model_path, sha256=record.sha256, record_id=record.record_id
        )


def plan_lines(
    steps: Iterable[Step],
    findings: Iterable[Finding],
    owned: Sequence[Owned],
    *,
    roots: Mapping[int, str],
    listed: bool,
    on_delete: str,
    now_ms: int,
    grace_ms: int,
) -> Iterator[Line]:
    """
    Yield a line for each file, and for each own record without a file.

    *findings* include equal files. They come from the live catalog (*listed*) or from syncd's own records.
    """
    steps = list(steps)
    here = {(roots[step.root_id], step.rel_path) for step in steps}
    lost = {record.record_id: record for record in owned if (record.root, record.path) not in here}
    by_file: dict[PathKey, Finding] = {}
    for finding in findings:
        if finding.file is not None:
            before = by_file.get(finding.file.key)
            if before is None or finding.kind is FindingKind.EQUAL:
                by_file[finding.file.key] = finding
    renamed = set()
    for step in steps:
        line = _of_file(step, by_file.get((step.root_id, step.rel_path)), lost, roots, listed)
        if line.action is PlanAction.RENAME:
            renamed.add(line.record_id)
        yield line
    for line in records_to_retire(owned, here, now_ms=now_ms, grace_ms=grace_ms):
        if line.record_id in renamed or (
            line.action is PlanAction.DELETE and on_delete != "delete"
        ):
            continue
        if on_delete == "keep" and line.action is not PlanAction.SKIP:
            reason = f"{line.reason}; catalog.on_delete is keep"
            line = replace(line, action=PlanAction.SKIP, reason=reason)
        yield line


def _of_file(
    step: Step,
    finding: Finding | None,
    lost: Mapping[str, Owned],
    roots: Mapping[int, str],
    listed: bool,
) -> Line:
    line = Line(
        PlanAction.SKIP,
        step.reason if step.action is Action.REGISTERED else f"{step.action}: {step.reason}",
        roots[step.root_id],
        step.rel_path,
        step.size,
        step.fingerprint,
        step.model_path,
    )
    kind = FindingKind.LOCAL_ONLY if finding is None else finding.kind
    if step.action is Action.DRIFT or (
        step.action is Action.REGISTERED and listed and kind in _LOST
    ):
        lost_how = "disabled" if kind is FindingKind.DISABLED else "not at its path"
        reason = step.reason if step.action is Action.DRIFT else f"its record is {lost_how}"
        return replace(line, action=PlanAction.UPLOAD, reason=f"{reason}; it is uploaded again")
    if step.action not in (Action.UPLOAD, Action.NEEDS_SIGN_IN):
        return line
    record = None if finding is None else finding.record
    if finding is not None and finding.file is not None and record is not None:
        known = replace(line, sha256=finding.file.sha256, record_id=record.id)
        if kind is FindingKind.EQUAL:
            reason = "the catalog has its content at its path"
            return replace(known, action=PlanAction.ADOPT, reason=reason)
        if kind is FindingKind.DISABLED:
            return replace(known, reason="the catalog has its content at its path, disabled")
        owned = lost.get(record.id)
        if kind is FindingKind.OTHER_PATH and owned is not None and owned.root == line.root:
            reason = f"it was {owned.path}, which is gone"
            return replace(known, action=PlanAction.RENAME, reason=reason, was=owned.path)
    if step.action is Action.UPLOAD:
        return replace(line, action=PlanAction.UPLOAD, reason=step.reason)
    return line


_LOST = frozenset({FindingKind.LOCAL_ONLY, FindingKind.OTHER_PATH, FindingKind.DISABLED})
