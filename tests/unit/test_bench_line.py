"""The long line of the bench: whose congestion control it is, and what counts as its share."""

import sys

import pytest

from bench.cable import BIN_S
from bench.line import ONE, OURS, Case, _json_process, _read_line, _shares


def route(control: str, sender: str) -> list[str]:
    chosen = Case(1000, 50, 0.0, control, "cubic", sender).route
    return chosen[chosen.index("congctl") + 1 :]


def test_a_control_is_locked_but_where_syncd_has_to_ask_for_bbr_itself() -> None:
    assert route("cubic", ONE) == ["lock", "cubic"]
    assert route("cubic", OURS) == ["lock", "cubic"]
    assert route("bbr", ONE) == ["lock", "bbr"]
    assert route("bbr", OURS) == ["cubic"]


def test_each_second_of_the_last_third_is_a_share_of_the_line() -> None:
    whole = int(1000 * 1e6 / 8 * BIN_S)  # 1 Gbit/s for one bin
    bins = [0] * 100 + [whole] * 30 + [whole // 2] * 20

    assert _shares(bins, 1000) == pytest.approx([1, 1, 1, 0.5, 0.5])


def test_a_process_that_says_nothing_or_ends_is_an_error_with_its_name() -> None:
    silent, gone = (sys.executable, "-c", "input()"), (sys.executable, "-c", "")
    with (
        _json_process(*silent) as process,
        pytest.raises(SystemExit, match=r"input.*nothing for 0 s"),
    ):
        _read_line(process, 0)
    with _json_process(*gone) as process, pytest.raises(SystemExit, match="ended"):
        _read_line(process)


def test_who_waits_looks_meanwhile() -> None:
    looks = 0
    with _json_process(sys.executable, "-c", "input(); print('[7]')") as process:

        def look() -> None:
            nonlocal looks
            looks += 1
            if looks == 1:  # it speaks when it is spoken to
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()

        assert _read_line(process, 30, look) == [7]
    assert looks >= 1
