"""What the live screen makes of the document of a running syncd."""

from typing import Any

from rich.console import Console

from syncd.cli.live_view import picture

NOW_MS = 1_800_000_000_000


def shown(hold: dict[str, Any]) -> list[str]:
    progress: dict[str, Any] = {
        "version": "1.2.3", "started_at": NOW_MS - 754_000, "running": [], "settling_files": 0,
        "settling": [], "bytes_left": 0, "seconds_left": None, "sent_rate": 0.0,
        "hashed_rate": 0.0, "idle_s": 0.0, "bandwidth": None, "calls_per_s": None,
    }  # fmt: skip
    document = {
        "roots": [{"path": "/models", "model_type": None, "scanned_at": NOW_MS}],
        "holds": [hold],
        "files_by_state": {},
        "bytes_by_state": {},
        "next_tries": [],
        "last_success_at": None,
        "progress": progress,
    }
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as said:
        console.print(picture(document, NOW_MS))
    return said.get().splitlines()


def test_hold_that_needs_an_operator_comes_first_with_its_advice() -> None:
    hold = {
        "kind": "operator",
        "since": NOW_MS - 61_000,
        "reason": "HTTP 401 [red]",
        "advice": "Replace the key.",
        "needs_operator": True,
        "probe_at": NOW_MS,
    }
    lines = shown(hold)

    assert lines[0].startswith("syncd 1.2.3 running for 12:34 on /models")
    assert lines[1] == "operator for 1:01: HTTP 401 [red]"  # nobody's text is taken for markup
    assert lines[2] == "  Replace the key."
