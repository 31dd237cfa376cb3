"""I17: the log is limited to ten lines a second and reports suppressed lines."""

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
    REPORT_S,
    RESERVED,
    SAME_MOST,
    SAME_S,
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
    root = logging.getLogger()
    before = root.handlers[:], root.level
    written = io.StringIO()
    log.configure(format="json", level="debug", stream=written, now_s=clock)
    yield written
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_I17_burst_is_written_and_longer_stream_is_limited_to_rate() -> None:
    limiter, passed, seconds = LogLimiter(0.0), 0, 1000
    for tick in range(seconds * 100):
        passed += limiter.admit("part.uploaded", tick / 100)
        passed += bool(limiter.suppressed(tick / 100))

    assert BURST - RESERVED <= passed <= BURST + seconds * LINES_PER_S
    assert passed >= (seconds - 1) * LINES_PER_S


def test_errors_have_a_reserve() -> None:
    limiter = LogLimiter(0.0)
    while limiter.admit("part.uploaded", 0.0):
        pass

    passed = [limiter.admit("job.failed", 0.0, trouble=f"reason {n}") for n in range(RESERVED + 5)]

    assert passed == [True] * RESERVED + [False] * 5


def test_repeated_trouble_is_counted_and_a_different_one_is_written() -> None:
    limiter = LogLimiter(0.0)

    passed = sum(limiter.admit("job.retry_scheduled", 1.0, trouble="no route") for _ in range(50))

    assert passed == SAME_MOST
    assert limiter.admit("job.retry_scheduled", 1.0, trouble="HTTP 503")
    assert limiter.suppressed(REPORT_S) == {"job.retry_scheduled": 50 - SAME_MOST}
    assert limiter.suppressed(2 * REPORT_S) == {}
    assert limiter.admit("job.retry_scheduled", 1.0 + SAME_S, trouble="no route")


def test_I17_log_reports_suppressed_lines(stream: io.StringIO, clock: Clock) -> None:
    for number in range(40):
        structlog.get_logger("syncd").warning("job.retry_scheduled", reason="no route", job=number)
    clock.now = REPORT_S
    structlog.get_logger("syncd").info("scan.finished")

    *retries, report, last = lines(stream)
    assert len(retries) == SAME_MOST
    assert report["event"] == "log.suppressed"
    assert report["lines"] == {"job.retry_scheduled": 40 - SAME_MOST}
    assert last["event"] == "scan.finished"


@pytest.mark.parametrize("end", ["closed", "configured again"])
def test_suppressed_lines_are_reported_when_log_ends(stream: io.StringIO, end: str) -> None:
    for _ in range(SAME_MOST + 3):
        logging.getLogger("foreign").error("again %s", "and again")
    if end == "closed":
        logging.getLogger().handlers[0].close()
    else:
        log.configure(format="json", level="error", stream=io.StringIO())

    assert lines(stream)[-1]["lines"] == {"foreign": 3}
