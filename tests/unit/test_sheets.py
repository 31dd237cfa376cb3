"""What ``syncd status`` says of a running syncd."""

from typing import Any

import pytest

from syncd.cli import sheets
from syncd.text import time_text

NOW_MS = 1_800_000_000_000


def progress(**changes: Any) -> dict[str, Any]:
    running = {
        "path": "loras/a.safetensors", "size": 9, "phase": "sending", "hashed": 9, "sent": 5,
        "parts": None, "parts_done": 0,
    }  # fmt: skip
    still: dict[str, Any] = {
        "started_at": NOW_MS - 10**6, "seconds_left": None, "sent_rate": 0.0, "hashed_rate": 0.0,
        "bytes_left": 9, "settling_files": 0, "running": [running], "idle_s": 0.0,
    }  # fmt: skip
    return still | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"idle_s": 301.0}, True),
        ({"idle_s": 299.0}, False),
        ({"idle_s": 301.0, "running": []}, False),
    ],
)
def test_I30_status_says_since_when_nothing_got_further(
    changes: dict[str, Any], said: bool
) -> None:
    lines = [line.text for line in sheets.activity(progress(**changes), NOW_MS)]

    assert (f"nothing got further since {time_text(NOW_MS - 301_000)}" in lines) == said
