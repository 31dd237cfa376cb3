"""Hypothesis profile, tests that are skipped for lack of a program, and the end of a run."""

import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests import scale
from tests.left_out import LeftOut, skip_without_needs

settings.register_profile(
    "scaled",
    max_examples=scale.scaled(300),
    derandomize=scale.FIXED,
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("scaled")

# A shell starts background jobs with SIGINT ignored, and the processes of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        skip_without_needs(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"scale {scale.NAME}, seed {scale.SEED}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """End with what was skipped: a count alone is easily overlooked."""
    yield
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    left_out = LeftOut([report for report in skipped if isinstance(report, pytest.TestReport)])
    if left_out:
        reporter.section("left out: tests, and what they need")
        for line in left_out.lines():
            reporter.write_line(line)
        reporter.write_line(left_out.last_line())
