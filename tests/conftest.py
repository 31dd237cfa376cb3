"""What a run of the tests has shown: one table at its end, a row a layer."""

from collections import defaultdict
from dataclasses import dataclass

import pytest

LAYERS = {
    "tests/unit": "T1 unit and tables",
    "tests/property": "T2 properties",
    "tests/property/test_queue_machine.py": "T3 stateful",
    "tests/simulation": "T4 whole daemon, virtual time",
    "tests/crash": "kill -9 at named points",
    "tests/crash/test_kill_line.py": "T5 kill at an executed line",
    "tests/crash/test_kill_call.py": "T6 kill at a system call",
    "tests/crash/test_power_loss.py": "T7 power loss images",
    "tests/crash/test_disk_errors.py": "T8 errors of the state disk",
    "tests/crash/test_disk_full.py": "T8 errors of the state disk",
    "tests/integration": "real files, sockets, servers",
    "tests/matrix": "T1 fault matrix",
    "tests/planted": "T16 planted bugs",
}
"""The longest beginning of a test's path names its layer."""


@dataclass(slots=True)
class Row:
    """Tests, the cases they tried, and the seconds they took."""

    tests: int = 0
    cases: int = 0
    seconds: float = 0.0


def layer_of(path: str) -> str:
    """The layer of the test file at *path*."""
    fitting = [start for start in LAYERS if path == start or path.startswith(f"{start}/")]
    return LAYERS[max(fitting, key=len)] if fitting else "other"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table; a test that says nothing of its cases is one."""
    rows: defaultdict[str, Row] = defaultdict(Row)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if not isinstance(report, pytest.TestReport):
                continue
            row = rows[layer_of(report.nodeid.partition("::")[0])]
            row.seconds += report.duration
            if report.when == "call":
                row.tests += 1
                said = dict(report.user_properties)
                row.cases += int(str(said.get("cases", 1)))
    terminalreporter.section("layers")
    line = "{:<34}{:>8}{:>10}{:>10}".format
    terminalreporter.write_line(line("layer", "tests", "cases", "seconds"))
    for name, row in sorted(rows.items()):
        terminalreporter.write_line(line(name, row.tests, row.cases, f"{row.seconds:.1f}"))
