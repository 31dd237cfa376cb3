"""What ``syncd status`` says of a running syncd."""

from typing import Any

import pytest

from syncd.cli import status_text
from syncd.cli.tables import Cell, Line, Table, render
from syncd.formatting import time_text

NOW_MS = 1_800_000_000_000


def progress(**changes: Any) -> dict[str, Any]:
    running = {
        "path": "loras/a.safetensors", "size": 9, "phase": "sending", "hashed": 9, "sent": 5,
        "parts": None, "parts_done": 0,
    }  # fmt: skip
    still: dict[str, Any] = {
        "started_at": NOW_MS - 10**6, "seconds_left": None, "sent_rate": 0.0, "hashed_rate": 0.0,
        "bytes_left": 9, "settling_files": 0, "settling": [], "running": [running],
        "calls_per_s": None, "idle_s": 0.0,
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
def test_I30_status_shows_since_when_no_byte_moved(changes: dict[str, Any], said: bool) -> None:
    lines = [line.text for line in status_text.activity(progress(**changes), NOW_MS)]

    assert (f"no progress since {time_text(NOW_MS - 301_000)}" in lines) == said


@pytest.mark.parametrize(
    ("files", "seconds_left", "reason", "told"),
    [
        (1, 17.2, None, ["waiting for 1 file to stop changing", "  a.pt  12.0 MiB  18 s left"]),
        (1, None, "a program has it open for writing",
         ["waiting for 1 file to stop changing",
          "  a.pt  12.0 MiB  a program has it open for writing"]),
        (3, 0.0, None,
         ["waiting for 3 files to stop changing", "  a.pt  12.0 MiB  0 s left",
          "… and 2 more still changing"]),
    ],
)  # fmt: skip
def test_status_lists_settling_files_and_counts_the_others(
    files: int, seconds_left: float | None, reason: str | None, told: list[str]
) -> None:
    settling = {"path": "a.pt", "size": 12 * 2**20, "seconds_left": seconds_left, "reason": reason}
    still = progress(running=[], settling_files=files, settling=[settling])

    assert [line.text for line in status_text.activity(still, NOW_MS)][1:] == told


def test_table_aligns_wide_characters_and_sizes() -> None:
    table = Table("Files", ("file", "size"), [("模型.pt", "9 B"), (Cell("a", "red"), "10.0 MiB")])

    assert render([table]).splitlines() == [
        "Files",
        "file         size",
        "模型.pt       9 B",
        "a        10.0 MiB",
    ]


def test_table_wraps_last_column_at_terminal_width() -> None:
    table = Table(None, ("file", "reason"), [("a.pt", "one two three four five six seven")])

    assert render([table], width=30).splitlines() == [
        "file  reason",
        "a.pt  one two three four five",
        "      six seven",
    ]


def test_style_is_applied_with_color_only() -> None:
    assert render([Line("x", "bold red")]) == "x\n"
    assert render([Line("x", "bold red")], color=True) == "\x1b[1;31mx\x1b[0m\n"
