"""I17: the log stays within ten lines a second, and says what it left out."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from syncd.monitoring import log
from syncd.monitoring.log_limiter import (
    BURST,
    LINES_PER_S,
    RESERVED,
    SAME_MOST,
    SAME_S,
    TOLD_EVERY_S,
    LogLimiter,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream(clock: Clock) -> Iterator[io.StringIO]:
    """Where the log goes meanwhile."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    written = io.StringIO()
    log.configure(format="json", level="debug", stream=written, now_s=clock)
    yield written
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def events(stream: io.StringIO, name: str) -> list[dict[str, object]]:
    return [line for line in lines(stream) if line["event"] == name]


def test_I17_a_burst_passes_whole_and_what_goes_on_is_cut_to_the_rate() -> None:
    flood, passed, seconds = LogLimiter(0.0), 0, 1000
    for tick in range(seconds * 100):
        passed += flood.admit("part.uploaded", tick / 100)
        passed += bool(flood.left_out(tick / 100))

    assert BURST - RESERVED <= passed <= BURST + seconds * LINES_PER_S
    assert passed >= (seconds - 1) * LINES_PER_S


def test_errors_are_heard_when_others_are_not() -> None:
    flood = LogLimiter(0.0)
    while flood.admit("part.uploaded", 0.0):
        pass

    heard = [flood.admit("job.failed", 0.0, trouble=f"reason {n}") for n in range(RESERVED + 5)]

    assert heard == [True] * RESERVED + [False] * 5


def test_one_trouble_said_over_and_over_is_counted_and_another_is_heard() -> None:
    flood = LogLimiter(0.0)

    heard = sum(flood.admit("job.retry_scheduled", 1.0, trouble="no route") for _ in range(50))

    assert heard == SAME_MOST
    assert flood.admit("job.retry_scheduled", 1.0, trouble="HTTP 503")
    assert flood.left_out(TOLD_EVERY_S) == {"job.retry_scheduled": 50 - SAME_MOST}
    assert flood.left_out(2 * TOLD_EVERY_S) == {}
    assert flood.admit("job.retry_scheduled", 1.0 + SAME_S, trouble="no route")


def test_I17_the_log_says_what_it_left_out(stream: io.StringIO, clock: Clock) -> None:
    for number in range(40):
        structlog.get_logger("syncd").warning("job.retry_scheduled", reason="no route", job=number)
    clock.now = TOLD_EVERY_S
    structlog.get_logger("syncd").info("scan.finished")

    (told,) = events(stream, "log.suppressed")
    assert len(events(stream, "job.retry_scheduled")) == SAME_MOST
    assert told["lines"] == {"job.retry_scheduled": 40 - SAME_MOST}
    assert [line["event"] for line in lines(stream)[-2:]] == ["log.suppressed", "scan.finished"]


def test_what_is_owed_is_told_when_the_log_ends(stream: io.StringIO) -> None:
    for _ in range(SAME_MOST + 3):
        logging.getLogger("foreign").error("again %s", "and again")
    logging.getLogger().handlers[0].close()

    assert lines(stream)[-1]["lines"] == {"foreign": 3}


def test_what_is_owed_is_told_when_the_log_is_set_up_anew(stream: io.StringIO) -> None:
    for _ in range(SAME_MOST + 3):
        structlog.get_logger("syncd").error("job.failed", reason="the same")
    log.configure(format="json", level="error", stream=io.StringIO())

    assert lines(stream)[-1]["lines"] == {"job.failed": 3}


def test_a_first_walk_over_many_files_is_told_whole(stream: io.StringIO) -> None:
    for number in range(BURST - RESERVED):
        structlog.get_logger("syncd").info("file.queued", path=f"loras/{number}.pt")

    assert len(events(stream, "file.queued")) == BURST - RESERVED
