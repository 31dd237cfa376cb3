"""The plan file: its text, the action for each file, and the cleanup of records."""

import json
from typing import Any

import pytest

from syncd.core.catalog.drift import Finding, FindingKind, LocalFile
from syncd.core.catalog.plan import Action, Step
from syncd.core.catalog.plan_file import (
    InvalidPlan,
    Line,
    Owned,
    PlanAction,
    format_plan,
    parse_plan,
    plan_lines,
)
from syncd.types import Fingerprint, Record

URL = "https://cloud.example/api/v1"
PRINT = Fingerprint(1, 2, 7, 4, 2**63)
ODD = "loras/caf\udce9.pt"
HOUR_MS = 3_600_000


def step(action: Action = Action.UPLOAD, path: str = "loras/a.pt") -> Step:
    return Step(1, path, PRINT, action, "because", "a rule", f"models/{path}")


def finding(kind: FindingKind, record_id: str | None = "r1", path: str = "loras/a.pt") -> Finding:
    record = None if record_id is None else Record(record_id, *[None] * 7)
    return Finding(kind, record, LocalFile((1, path), f"models/{path}", 7, "ab" * 32))


def owned(record_id: str = "r1", path: str = "loras/old.pt", **facts: Any) -> Owned:
    defaults = {"since": 0, "replaced": False, "retired_at": None}
    return Owned(
        record_id, f"models/{path}", "ab" * 32, 7, "/models", path, **{**defaults, **facts}
    )


def lines(
    steps: list[Step], findings: list[Finding], records: list[Owned] | None = None, **how: Any
) -> list[Line]:
    defaults = {"listed": True, "on_delete": "keep", "now_ms": 9 * HOUR_MS, "grace_ms": HOUR_MS}
    return list(
        plan_lines(steps, findings, records or [], roots={1: "/models"}, **{**defaults, **how})
    )


def test_plan_survives_formatting_and_parsing() -> None:
    plan = [
        Line(PlanAction.UPLOAD, "new", "/models", ODD, 7, PRINT, "models/loras/a.pt"),
        Line(PlanAction.SKIP, "reason", "/models", "b"),
    ]

    texts = list(format_plan(plan, base_url=URL))

    assert parse_plan(texts, base_url=URL) == plan
    assert all(text.isascii() for text in texts)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"action": "delete"}, "needs record_id"),
        ({"action": "skip", "size": "7"}, "size"),
        ({"action": "skip", "more": 7}, "'more'"),
        ({"action": "upload", "model_path": "m", "fingerprint": {"dev": 1}}, "fingerprint is not"),
    ],
)
def test_invalid_line_is_refused_with_its_number(members: dict[str, Any], message: str) -> None:
    head = next(iter(format_plan([], base_url=URL)))
    line = json.dumps({"reason": "", "root": "/models", "path": "a", **members})

    with pytest.raises(InvalidPlan, match=message) as caught:
        parse_plan([head, line], base_url=URL)

    assert str(caught.value).startswith("line 2: ")


def test_file_listed_twice_is_refused() -> None:
    twice = [Line(PlanAction.UPLOAD, "", "/models", "a", 7, PRINT, "models/a")] * 2

    with pytest.raises(InvalidPlan, match="twice"):
        parse_plan(format_plan(twice, base_url=URL), base_url=URL)


@pytest.mark.parametrize(
    ("action", "found", "act"),
    [
        (Action.UPLOAD, finding(FindingKind.LOCAL_ONLY, None), PlanAction.UPLOAD),
        (Action.UPLOAD, finding(FindingKind.OTHER_BYTES), PlanAction.UPLOAD),
        (Action.UPLOAD, finding(FindingKind.EQUAL), PlanAction.ADOPT),
        (Action.UPLOAD, finding(FindingKind.DISABLED), PlanAction.SKIP),
        (Action.UPLOAD, finding(FindingKind.OTHER_PATH), PlanAction.RENAME),
        (Action.UPLOAD, finding(FindingKind.OTHER_PATH, "foreign"), PlanAction.UPLOAD),
        (Action.NEEDS_SIGN_IN, finding(FindingKind.EQUAL), PlanAction.ADOPT),
        (Action.NEEDS_SIGN_IN, finding(FindingKind.LOCAL_ONLY, None), PlanAction.SKIP),
        (Action.REGISTERED, finding(FindingKind.EQUAL), PlanAction.SKIP),
        (Action.REGISTERED, finding(FindingKind.LOCAL_ONLY, None), PlanAction.UPLOAD),
        (Action.DRIFT, finding(FindingKind.LOCAL_ONLY, None), PlanAction.UPLOAD),
        (Action.REFUSED, finding(FindingKind.LOCAL_ONLY, None), PlanAction.SKIP),
    ],
)
def test_action_follows_from_step_and_finding(
    action: Action, found: Finding, act: PlanAction
) -> None:
    first, *others = lines([step(action)], [found], [owned()])

    assert first.action is act
    assert (others == []) == (act is PlanAction.RENAME)  # otherwise the record has its own line


def test_registered_file_is_skipped_without_live_catalog() -> None:
    (line,) = lines(
        [step(Action.REGISTERED)], [finding(FindingKind.LOCAL_ONLY, None)], listed=False
    )

    assert line.action is PlanAction.SKIP
