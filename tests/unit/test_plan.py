"""What the dry run says of one file that the rules select."""

from dataclasses import replace

import pytest

from syncd.core.catalog.plan import Action, Known, RouteLimits, Step, plan_files
from syncd.core.files.selection import Rules, judge
from syncd.types import Fingerprint, FoundFile

PATH = "loras/a.safetensors"
SIZE = 100
FINGERPRINT = Fingerprint(dev=1, inode=2, size=SIZE, mtime_ns=4, ctime_ns=5)
KNOWN = Known(FINGERPRINT, "registered", None, f"models/{PATH}")
AMPLE = RouteLimits(single_put_limit=SIZE, session=False)
SMALL = RouteLimits(single_put_limit=SIZE - 1, session=False)


def plan(known: Known | None, limits: RouteLimits = AMPLE) -> Step:
    (step,) = plan_files(
        [FoundFile(1, PATH, FINGERPRINT, SIZE)],
        {} if known is None else {(1, PATH): known},
        limits,
        lambda file: judge(Rules(), file.rel_path, file.fingerprint.size),
    )
    return step


@pytest.mark.parametrize(
    ("known", "limits", "action", "reason"),
    [
        (None, replace(SMALL, session=True), Action.UPLOAD, "new, in parts"),
        (None, SMALL, Action.NEEDS_SIGN_IN, "larger than the 99 bytes of one request"),
        (
            replace(KNOWN, state="cancelled", reason="by hand"),
            AMPLE,
            Action.CANCELLED,
            "by hand; to",
        ),
        (replace(KNOWN, state="failed"), AMPLE, Action.FAILED, "failed before and unchanged"),
        (replace(KNOWN, state="queued"), AMPLE, Action.UPLOAD, "changed or unfinished, in one"),
        (replace(KNOWN, model_path="models/b.pt"), AMPLE, Action.UPLOAD, "changed or unfinished"),
    ],
)
def test_plan_of_selected_file_follows_its_state_and_size(
    known: Known | None, limits: RouteLimits, action: Action, reason: str
) -> None:
    step = plan(known, limits)

    assert (step.action, step.model_path) == (action, f"models/{PATH}")
    assert step.reason.startswith(reason)
