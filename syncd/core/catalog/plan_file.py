"""
A plan that a person may read, shorten and let happen: one line for each thing to do or to leave.

JSON Lines: the first names the cloud that the plan is for, each other one is a line of it. What
happens is what the lines say, no more; a line whose file or record is not any more what it was is
refused alone.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any

from syncd.core.catalog.drift import Finding, Kind
from syncd.core.catalog.plan import Action, Step
from syncd.core.files.search_paths import PathKey
from syncd.types import Fingerprint

SCHEMA = 1
LINE_MAX = 64 * 1024


class PlanAction(StrEnum):
    """What a line asks for."""

    UPLOAD = (
        "upload"  # send the file and register it; a record of ours that it replaces is disabled
    )
    ADOPT = "adopt"  # take note of the record that holds its bytes
    RENAME = "rename"  # give the record of a renamed file its new path
    DISABLE = "disable"  # take a record of ours out of force
    DELETE = "delete"  # delete a record of ours
    SKIP = "skip"  # nothing, and why


OF_FILES = frozenset({PlanAction.UPLOAD, PlanAction.ADOPT, PlanAction.RENAME})
OF_RECORDS = frozenset({PlanAction.DISABLE, PlanAction.DELETE})
SENDING_NOTHING = frozenset({PlanAction.ADOPT, PlanAction.RENAME})


@dataclass(frozen=True, slots=True)
class Line:
    """
    One line.

    Args:
        reason: For a person.
        root, path: The file, as the operating system spells it; of a record of ours its last one.
        size: Bytes.
        fingerprint: What the file was when the plan was made; None where there is none.
        model_path: Where it goes, or where the record stands.
        sha256: 64 hex digits, where they are known.
        record_id: The record that the line is about.
        was: The path below the same root that a renamed file had.
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


class Unusable(ValueError):
    """The text is no plan for this cloud; the message names the line."""


def written(lines: Iterable[Line], *, base_url: str) -> Iterator[str]:
    """The plan as lines of text, without their ends."""
    yield json.dumps({"syncd_plan": SCHEMA, "base_url": base_url})
    for line in lines:
        members = {name: value for name, value in asdict(line).items() if value is not None}
        if line.fingerprint is not None:
            members["fingerprint"] = line.fingerprint._asdict()
        yield json.dumps(members)


def read(texts: Iterable[str], *, base_url: str) -> list[Line]:
    """
    The plan back from its text; empty lines are passed over.

    Raises:
        Unusable: It is for another cloud, or a line is none.
    """
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
            raise Unusable(f"line {number}: this is no plan that this syncd can apply")
        if members.get("base_url") != base_url:
            raise Unusable(
                f"line {number}: the plan is for {members.get('base_url')}, and api.base_url is "
                f"{base_url}"
            )
    if not headed:
        raise Unusable("the file is empty")
    _require_once(lines)
    return lines


def _require_once(lines: Sequence[Line]) -> None:
    met: dict[tuple[str, str], PlanAction] = {}
    for line in lines:
        if line.action in OF_FILES:
            if (line.root, line.path) in met:
                raise Unusable(f"{line.path!r} stands in the plan twice")
            met[line.root, line.path] = line.action


def _object(number: int, text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text) if len(text) <= LINE_MAX else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unusable(f"line {number}: not a JSON object")
    return value


_TEXTS = ("reason", "root", "path")
_OPTIONAL = ("model_path", "sha256", "record_id", "was")
_NAMES = ("root", "path", "was")
_IDS = ("sha256", "record_id")
_NEEDED: Mapping[PlanAction, tuple[str, ...]] = {
    PlanAction.UPLOAD: ("fingerprint", "model_path"),
    PlanAction.ADOPT: ("fingerprint", "model_path", "sha256", "record_id"),
    PlanAction.RENAME: ("fingerprint", "model_path", "sha256", "record_id", "was"),
    PlanAction.DISABLE: ("record_id",),
    PlanAction.DELETE: ("record_id",),
    PlanAction.SKIP: (),
}


def _line(number: int, members: Mapping[str, Any]) -> Line:
    unknown = members.keys() - {each.name for each in fields(Line)}
    if unknown:
        raise Unusable(f"line {number}: {min(unknown)!r} is no member of a plan's line")
    try:
        action = PlanAction(members.get("action", ""))
    except ValueError:
        raise Unusable(
            f"line {number}: action is none of {', '.join(PlanAction)}: {members.get('action')!r}"
        ) from None
    for name in (*_TEXTS, *(n for n in _OPTIONAL if n in members)):
        if not isinstance(members.get(name), str):
            raise Unusable(f"line {number}: {name} is not a text")
    for name in _NAMES:
        if name in members and not _may_name_a_file(members[name]):
            raise Unusable(f"line {number}: {name} is no name that a file can have")
    for name in _IDS:
        if name in members and not _is_unicode(members[name]):
            raise Unusable(f"line {number}: {name} is not Unicode")
    for name in _NEEDED[action]:
        if members.get(name) is None:
            raise Unusable(f"line {number}: {action} needs {name}")
    size = members.get("size", 0)
    if type(size) is not int:
        raise Unusable(f"line {number}: size is not a whole number")
    fingerprint = _fingerprint(number, members.get("fingerprint"))
    return Line(**{**members, "action": action, "size": size, "fingerprint": fingerprint})


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _may_name_a_file(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _fingerprint(number: int, value: object) -> Fingerprint | None:
    if value is None:
        return None
    named = isinstance(value, dict) and value.keys() == set(Fingerprint._fields)
    if isinstance(value, dict) and named and all(type(n) is int for n in value.values()):
        return Fingerprint(**value)
    raise Unusable(f"line {number}: fingerprint is not {', '.join(Fingerprint._fields)}")


@dataclass(frozen=True, slots=True)
class Owned:
    """
    A record that this machine registered.

    Args:
        root, path: Its file's place, as the operating system spells it.
        since: When its file was found missing, or its path got other bytes; None: not yet. Unix ms.
        replaced: Its path got other bytes.
        retired_at: When this machine took it out of force; None: it did not. Unix ms.
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


def retiring(
    owned: Iterable[Owned], here: Collection[tuple[str, str]], *, now_ms: int, grace_ms: int
) -> Iterator[Line]:
    """
    A line for each record of ours that has no file here: disabled first, deleted a grace later.

    Args:
        here: Root and path of every file on disk.
        grace_ms: So long its file has to be gone, and then the record to be disabled.
    """
    for record in owned:
        if not record.replaced and (record.root, record.path) in here:
            continue
        action, since, what = PlanAction.DISABLE, record.since, "its file is gone"
        if record.retired_at is not None:
            action, since, what = PlanAction.DELETE, record.retired_at, "it was disabled here"
        elif record.replaced:
            what = "its path holds other bytes now"
        reason = what
        if since is None and grace_ms:
            action, reason = PlanAction.SKIP, f"{what}, which syncd has not taken note of yet"
        elif since is not None and since > now_ms - grace_ms:
            left_s = (since + grace_ms - now_ms) // 1000
            action, reason = (
                PlanAction.SKIP,
                f"{what}; {left_s} s of catalog.delete_grace_s are left",
            )
        yield Line(
            action,
            reason,
            record.root,
            record.path,
            size=record.size,
            model_path=record.model_path,
            sha256=record.sha256,
            record_id=record.record_id,
        )


def agenda(
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
    A line for each file, and for each record of ours that has none.

    Args:
        findings: The files against the catalog, equal ones included.
        roots: The directories by their number in *steps*.
        listed: The catalog was read, and not only what is remembered of it.
        on_delete: ``keep``, ``disable`` or ``delete``: what the operator wants of a file's end.
    """
    steps = list(steps)
    here = {(roots[step.root_id], step.rel_path) for step in steps}
    lost = {each.record_id: each for each in owned if (each.root, each.path) not in here}
    by_file: dict[PathKey, Finding] = {}
    for finding in findings:
        if finding.file is not None:
            before = by_file.get(finding.file.key)
            if before is None or finding.kind is Kind.EQUAL:
                by_file[finding.file.key] = finding
    renamed = set()
    for step in steps:
        line = _of_file(step, by_file.get((step.root_id, step.rel_path)), lost, roots, listed)
        if line.action is PlanAction.RENAME:
            renamed.add(line.record_id)
        yield line
    for line in retiring(owned, here, now_ms=now_ms, grace_ms=grace_ms):
        if line.record_id in renamed or (
            line.action is PlanAction.DELETE and on_delete != "delete"
        ):
            continue
        if on_delete == "keep" and line.action is not PlanAction.SKIP:
            line = replace(
                line, action=PlanAction.SKIP, reason=f"{line.reason}; catalog.on_delete is keep"
            )
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
    kind = Kind.LOCAL_ONLY if finding is None else finding.kind
    if step.action is Action.DRIFT or (
        step.action is Action.REGISTERED and listed and kind in _LOST
    ):
        return replace(
            line, action=PlanAction.UPLOAD, reason=f"{_why_lost(step, kind)}; it is sent again"
        )
    if step.action not in (Action.UPLOAD, Action.NEEDS_SIGN_IN):
        return line
    record = None if finding is None else finding.record
    if finding is not None and finding.file is not None and record is not None:
        known = replace(line, sha256=finding.file.sha256, record_id=record.id)
        if kind is Kind.EQUAL:
            return replace(
                known, action=PlanAction.ADOPT, reason="the catalog holds its bytes at its path"
            )
        if kind is Kind.DISABLED:
            return replace(known, reason="the catalog holds its bytes at its path, disabled")
        owned = lost.get(record.id)
        if kind is Kind.OTHER_PATH and owned is not None and owned.root == line.root:
            reason = f"its bytes were {owned.path}, which is gone"
            return replace(known, action=PlanAction.RENAME, reason=reason, was=owned.path)
    if step.action is Action.UPLOAD:
        return replace(line, action=PlanAction.UPLOAD, reason=step.reason)
    return line


_LOST = frozenset({Kind.LOCAL_ONLY, Kind.OTHER_PATH, Kind.DISABLED})


def _why_lost(step: Step, kind: Kind) -> str:
    if step.action is Action.DRIFT:
        return step.reason
    return "its record is disabled" if kind is Kind.DISABLED else "its record is not at its path"
