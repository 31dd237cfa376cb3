"""T6: kill -9 at the k-th system call that stores or sends, then once more from the start."""

from pathlib import Path

import pytest

from tests.crash.calls import SEND, STORAGE, entered, most_in_a_thread
from tests.crash.lanes import each
from tests.crash.scenario import Theatre
from tests.scale import FIXED, stride
from tests.tools import TRACING

pytestmark = [pytest.mark.crash, pytest.mark.needs("strace", TRACING)]

Moment = tuple[str, int]
"""A system call, and which one of a thread."""


def watched(names: tuple[str, ...]) -> list[str]:
    """
    Store calls are counted in all threads; sends in the loop's own, which speaks to the API.

    In other threads most sends only wake the loop, and strace would count those first.
    """
    threads = [] if set(names) <= set(SEND) else ["-f"]
    return [*threads, "-e", f"trace={','.join(names)}"]


def moments(theatre: Theatre, *, fresh: bool) -> list[Moment]:
    """Each call of the kind that the scenario makes, or of each name so-manieth."""
    counts: dict[str, int] = {}
    for names in (STORAGE, SEND):
        with theatre.scene(fresh=fresh) as scene:
            log = Path(f"{scene.out}.calls")
            assert scene.run(strace=[*watched(names), "-o", str(log)]) == 0, scene.log()
            # A call that strace has no name for is written down whether or not it was asked for.
            counts |= most_in_a_thread(call for call in entered(log) if call.name in names)
    return [
        (name, k) for name, count in sorted(counts.items()) for k in range(1, count + 1, stride(3))
    ]


def kill(theatre: Theatre, moment: Moment, *, fresh: bool) -> bool:
    """Was the moment met? Threads interleave, so a call more or less may be lacking."""
    name, k = moment
    inject = ["-e", f"inject={name}:signal=KILL:when={k}", "-o", "/dev/null"]
    with theatre.scene(fresh=fresh) as scene:
        code = scene.run(strace=[*watched((name,)), *inject])
        assert code in (0, -9), scene.log()
        scene.require_recovered()
    return code == -9


@pytest.mark.parametrize(
    "fresh",
    [True] if FIXED else [True, False],
    ids=lambda fresh: "first-run" if fresh else "later-run",
)
def test_I06_kill_at_any_storage_or_send_call_loses_no_commit(
    theatre: Theatre, fresh: bool, request: pytest.FixtureRequest
) -> None:
    points = moments(theatre, fresh=fresh)
    met = each(lambda moment: kill(theatre, moment, fresh=fresh), points, request)

    assert sum(met) > 0.9 * len(met)
