"""T8: the k-th call on the state disk fails once; what was acknowledged is kept, and work goes on."""

from pathlib import Path

import pytest

from tests.crash.calls import entered, most_in_a_thread
from tests.crash.lanes import each
from tests.crash.scenario import Theatre
from tests.scale import stride
from tests.tools import TRACING

pytestmark = [pytest.mark.crash, pytest.mark.needs("strace", TRACING)]

LANES = 4
"""More than processors: a run that holds mostly sleeps."""

Moment = tuple[str, str, int]
"""The call, what it answers, and which one of a thread it is."""

FAULTS = (
    ("pwrite64", "ENOSPC"),
    ("pwrite64", "EIO"),
    ("pwrite64", "EROFS"),
    ("pwrite64", "EINTR"),
    ("fdatasync", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("fdatasync", "EINTR"),
    ("pread64", "EIO"),
    ("pread64", "EINTR"),
    ("ftruncate", "EIO"),
    ("ftruncate", "ENOSPC"),
    ("ftruncate", "EINTR"),
    ("unlink", "EIO"),
    ("unlink", "EROFS"),
    ("mkdir", "ENOSPC"),
    ("mkdir", "EROFS"),
    ("flock", "EINTR"),
)
CALLS = sorted({name for name, _ in FAULTS})
REPEATED = {"pwrite64", "pread64", "ftruncate", "flock"}
"""Who makes these makes them again when they were interrupted."""


@pytest.fixture(scope="module")
def moments(theatre: Theatre) -> list[Moment]:
    """Where each fault is tried."""
    with theatre.scene(fresh=True) as scene:
        log = Path(f"{scene.out}.calls")
        trace = ["-f", "-e", f"trace={','.join(CALLS)}", "-o", str(log)]
        assert scene.run(strace=trace) == 0, scene.log()
        counts = most_in_a_thread(entered(log))
    strides = {name: stride(24) if counts[name] > 100 else 1 for name, _ in FAULTS}
    return [
        (name, error, k)
        for number, (name, error) in enumerate(FAULTS)
        for k in range(1 + number % strides[name], counts[name] + 1, strides[name])
    ]


def fail(theatre: Theatre, moment: Moment) -> None:
    name, error, k = moment
    inject = f"inject={name}:error={error}:when={k}"
    trace = ["-f", "-e", f"trace={name}", "-e", inject, "-o", "/dev/null"]
    with theatre.scene(fresh=True) as scene:
        code = scene.run(strace=trace)
        assert code in (0, 74), scene.log()
        held = "hold.started" in scene.log()
        if held or (error == "EINTR" and name in REPEATED):  # what passes by itself is waited for
            assert code == 0, scene.log()
        scene.require_recovered()


@pytest.mark.parametrize("only", FAULTS, ids="-".join)
def test_F19_F20_F21_state_disk_error_loses_no_commit_and_no_upload(
    theatre: Theatre,
    moments: list[Moment],
    only: tuple[str, str],
    request: pytest.FixtureRequest,
) -> None:
    points = [moment for moment in moments if moment[:2] == only]
    assert points, "the run makes no such call"
    each(lambda moment: fail(theatre, moment), points, request, lanes=LANES)
