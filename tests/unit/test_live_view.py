"""What the live screen makes of the document of a running syncd."""

from typing import Any

from rich.console import Console

from syncd.cli.live_view import picture

NOW_MS = 1_800_000_000_000


RUNNING = {
    "path": "checkpoints/flux.safetensors",
    "size": 400,
    "phase": "sending",
    "hashed": 0,
    "sent": 50,
    "parts": 4,
    "parts_done": 2,
}


def document(**changes: Any) -> dict[str, Any]:
    progress = {
        "version": "1.2.3",
        "started_at": NOW_MS - 754_000,
        "running": [],
        "settling_files": 0,
        "settling": [],
        "bytes_left": 0,
        "seconds_left": None,
        "sent_rate": 0.0,
        "hashed_rate": 0.0,
        "idle_s": 0.0,
        "bandwidth": None,
        "calls_per_s": None,
    } | changes.pop("progress", {})
    return {
        "roots": [{"path": "/models", "model_type": None, "scanned_at": NOW_MS}],
        "holds": [],
        "files_by_state": {},
        "bytes_by_state": {},
        "next_tries": [],
        "last_success_at": None,
        "progress": progress,
    } | changes


def shown(**changes: Any) -> list[str]:
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as said:
        console.print(picture(document(**changes), NOW_MS))
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
    lines = shown(holds=[hold])

    assert lines[0].startswith("syncd 1.2.3 running for 12:34 on /models")
    assert lines[1] == "operator for 1:01: HTTP 401 [red]"  # nobody's text is taken for markup
    assert lines[2] == "  Replace the key."


def test_a_running_file_shows_its_bar_and_its_parts() -> None:
    lines = shown(progress={"running": [RUNNING]})

    assert any("flux" in line and "sending 50 B of 400 B, 2/4 parts" in line for line in lines)


def test_rates_limit_and_time_left_are_one_line() -> None:
    progress = {"sent_rate": 2.0**20, "bandwidth": 2 * 2**20, "seconds_left": 312}
    lines = shown(progress=progress)

    assert "uploading 1.0 MiB/s (limit 2.0 MiB/s)   hashing 0 B/s   time left 5:12" in lines
