"""What a run of the tests has shown: one table at its end, a row a layer."""

import re
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import scale
from tests.layers import LAYERS, Phase, layer_at, table
from tests.left_out import LeftOut, skip_without_needs

settings.register_profile(
    "scaled",
    max_examples=scale.SCALE.examples,
    derandomize=scale.FIXED,
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("scaled")

# A shell's background jobs begin deaf to it, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


class AtOnce:
    """Prints each failure when it happens: a run that is cut short has said what it knew."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self.reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The end of what *report* tells, where it failed."""
        if report.failed:
            self.reporter.section(f"{report.nodeid} ({report.when})", sep=".")
            self.reporter.write_line(report.longreprtext[-4_000:])


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Failures are printed where there is a terminal: not by each process of several."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        config.pluginmanager.register(AtOnce(reporter))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note each test's layer and the cases it tries; one without a layer ends the run."""
    for item in items:
        item.user_properties.append(("layer", layer_of(item)))
        skip_without_needs(item)


def layer_of(item: pytest.Item) -> str:
    """The layer of *item*."""
    mark = item.get_closest_marker("layer")
    path = item.nodeid.partition("::")[0]
    layer = mark.args[0] if mark else layer_at(path)
    if layer not in LAYERS:
        raise pytest.UsageError(f"{path} is of no layer: give it a place in tests/layers.py")
    return str(layer)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The examples that Hypothesis tried are cases."""
    report = yield
    said = getattr(item, "hypothesis_statistics", "")
    if report.when == "call" and said:
        tried = sum(map(int, re.findall(r"(\d+) passing", said)))
        report.user_properties.append(("cases", tried))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table; a test that says nothing of its cases is one."""
    for found in tables(terminalreporter):
        terminalreporter.section("what a test found")
        terminalreporter.write_line(found)
    terminalreporter.section("layers")
    for line in table(phases(terminalreporter)):
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"scale {scale.NAME}, seed {scale.SEED}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """End with what was left out: a count of skipped tests alone is easily overlooked."""
    yield
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    left_out = left_out_of(reporter) if reporter is not None else None
    if left_out:
        reporter.section("left out: tests, and what they need")
        for line in left_out.lines():
            reporter.write_line(line)
        reporter.write_line(left_out.last_line())


def left_out_of(reporter: pytest.TerminalReporter) -> LeftOut:
    """The tests that were skipped."""
    return LeftOut(
        [r for r in reporter.stats.get("skipped", []) if isinstance(r, pytest.TestReport)]
    )


def tables(reporter: pytest.TerminalReporter) -> Iterator[str]:
    """What tests leave as their property "table"."""
    for reports in reporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "call":
                said = dict(report.user_properties)
                if "table" in said:
                    yield f"{report.nodeid}\n{said['table']}"


def phases(reporter: pytest.TerminalReporter) -> Iterator[Phase]:
    """What each report says."""
    for reports in reporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                said = dict(report.user_properties)
                called = report.when == "call"
                cases = int(str(said.get("cases", 1))) if called else 0
                yield Phase(str(said["layer"]), report.duration, int(called), cases)
