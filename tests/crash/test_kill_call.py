"""T6: kill -9 at the k-th system call that stores or sends, then once more from the start."""

from pathlib import Path

import pytest

from tests.crash.calls import SEND, STORAGE, entered, most_in_a_thread
from tests.crash.lanes import each
from tests.crash.scenario import Theatre

pytestmark = pytest.mark.crash

Moment = tuple[str, int]
"""A system call, and which one of a thread."""


def traced(names: tuple[str, ...], log: str) -> list[str]:
    return ["-e", f"trace={','.join(names)}", "-o", log]


def moments(theatre: Theatre, *, fresh: bool) -> list[Moment]:
    """Each storage and send call that the scenario makes in its busiest thread."""
    with theatre.scene(fresh=fresh) as scene:
        log = Path(f"{scene.folder}/calls")
        assert scene.run(strace=traced(STORAGE + SEND, str(log))) == 0, scene.said()
        most = most_in_a_thread(entered(log))
    return [(name, k) for name, count in sorted(most.items()) for k in range(1, count + 1)]


def kill(theatre: Theatre, moment: Moment, *, fresh: bool) -> bool:
    """Was the moment met? Threads interleave, so a call more or less may be lacking."""
    name, k = moment
    inject = ["-e", f"inject={name}:signal=KILL:when={k}"]
    with theatre.scene(fresh=fresh) as scene:
        code = scene.run(strace=[*traced((name,), "/dev/null"), *inject])
        assert code in (0, -9), scene.said()
        scene.require_recovered()
    return code == -9


@pytest.mark.parametrize("fresh", [True, False], ids=["first-run", "later-run"])
def test_I06_a_kill_at_any_storage_or_send_call_costs_nothing(
    theatre: Theatre, fresh: bool, request: pytest.FixtureRequest
) -> None:
    points = moments(theatre, fresh=fresh)
    met = each(lambda moment: kill(theatre, moment, fresh=fresh), points, request)

    assert sum(met) > 0.95 * len(met)
