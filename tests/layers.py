"""The layers of the tests, T1 to T18: each test is of one, by its mark or by its path."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LAYERS = {
    "T1": "unit and tables",
    "T2": "properties",
    "T3": "state machines",
    "T4": "whole daemon in virtual time",
    "T5": "kill -9 in a renewal or register",
    "T6": "kill -9 at a system call",
    "T7": "power loss images",
    "T8": "errors of the state disk",
    "T9": "socket faults",
    "T10": "half-open links",
    "T11": "real S3 server",
    "T12": "mutated input and answers",
    "T13": "file names, real tree",
    "T14": "files changed while they are sent",
    "T15": "soak, simulated days",
    "T16": "planted bugs",
    "T17": "mutation of the program",
    "T18": "units, container, manifests",
    "matrix": "faults by phases",
    "points": "kill -9 at named points",
    "TLS": "untrusted servers",
    "guards": "system calls counted",
    "writers": "real programs that write models",
    "whole": "the command, files, sockets",
}
"""What stands in the table; the last six have no number."""

PLACES = {
    "tests/unit": "T1",
    "tests/property": "T2",
    "tests/property/test_queue_machine.py": "T3",
    "tests/property/test_safe_machine.py": "T3",
    "tests/property/test_uploader_machine.py": "T3",
    "tests/property/test_formats_mutation.py": "T12",
    "tests/property/test_answers_mutation.py": "T12",
    "tests/simulation": "T4",
    "tests/simulation/test_soak.py": "T15",
    "tests/crash": "points",
    "tests/crash/test_kill_register.py": "T5",
    "tests/crash/test_kill_renewal.py": "T5",
    "tests/crash/test_kill_call.py": "T6",
    "tests/crash/test_power_loss.py": "T7",
    "tests/crash/test_disk_errors.py": "T8",
    "tests/crash/test_disk_full.py": "T8",
    "tests/crash/test_disk_truth.py": "T8",
    "tests/deploy": "T18",
    "tests/guards": "guards",
    "tests/integration": "whole",
    "tests/integration/test_hostile_names.py": "T13",
    "tests/integration/test_real_s3.py": "T11",
    "tests/integration/test_real_s3_doors.py": "T11",
    "tests/matrix": "matrix",
    "tests/planted": "T16",
    "tests/sockets": "T9",
    "tests/sockets/test_half_open.py": "T10",
    "tests/sockets/test_tls.py": "TLS",
    "tests/sockets/test_moving_files.py": "T14",
    "tests/writers": "writers",
}
"""The longest beginning of a test's path that stands here names its layer."""


def layer_at(path: str) -> str | None:
    """The layer of the test file at *path*, if a place was given to it."""
    fitting = [start for start in PLACES if path == start or path.startswith(f"{start}/")]
    return PLACES[max(fitting, key=len)] if fitting else None


@dataclass(frozen=True, slots=True)
class Phase:
    """What a test's set-up, its call or its tear-down took."""

    layer: str
    seconds: float
    tests: int
    cases: int


def table(phases: Iterable[Phase]) -> Iterator[str]:
    """A line each layer; seconds are summed over the processes that shared the tests."""
    line = "{:<40}{:>8}{:>10}{:>10}{:>10}".format
    rows: defaultdict[str, list[Phase]] = defaultdict(list)
    for phase in phases:
        rows[phase.layer].append(phase)
    yield line("layer", "tests", "cases", "seconds", "a second")
    for layer in sorted(rows, key=[*LAYERS].index):
        tests = sum(phase.tests for phase in rows[layer])
        cases = sum(phase.cases for phase in rows[layer])
        seconds = sum(phase.seconds for phase in rows[layer])
        rate = f"{cases / max(seconds, 0.1):.1f}"
        yield line(f"{layer:<8}{LAYERS[layer]}", tests, cases, f"{seconds:.1f}", rate)
