from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.files import settling
from syncd.core.files.settling import Observation, Windows
from syncd.types import Fingerprint, FoundFile, HintKind

WINDOWS = Windows(quiet_s=30, closed_s=10, network_s=90)
LONGEST_S = 2 * 90
FILE = FoundFile(
    1, "loras/x.pt", Fingerprint(1, 2, 4096, 5 * settling.SECOND_NS, 6), allocated=4096
)


@dataclass(frozen=True)
class Step:
    """Time passes, the file may change, and then it is examined."""

    wait_s: int
    changes: bool
    sparse: bool
    hint: HintKind | None
    network: bool
    companion: str | None


steps = st.builds(
    Step,
    wait_s=st.integers(0, 100),
    changes=st.booleans(),
    sparse=st.booleans(),
    hint=st.none() | st.sampled_from(HintKind),
    network=st.booleans(),
    companion=st.sampled_from([None, None, None, "x.pt.aria2"]),
)


def observe(before: Observation | None, found: FoundFile, now_s: float, step: Step) -> Observation:
    observation = settling.observe(
        before,
        found,
        now_s=now_s,
        hint=step.hint,
        windows=WINDOWS,
        network=step.network,
        companion=step.companion,
    )
    assert observation is not None
    return observation


def changed(found: FoundFile, *, sparse: bool) -> FoundFile:
    ctime_ns = found.fingerprint.ctime_ns + 1
    return found._replace(
        fingerprint=found.fingerprint._replace(ctime_ns=ctime_ns),
        allocated=0 if sparse else 4096,
    )


@given(st.lists(steps, max_size=30))
def test_file_never_settles_within_window_of_a_change(
    story: list[Step],
) -> None:
    now_s, disturbed_s = 0, 0
    observation, found = None, FILE
    for step in story:
        now_s += step.wait_s
        if step.changes:
            found = changed(found, sparse=step.sparse)
        if step.changes or step.hint or step.companion:
            disturbed_s = now_s
        observation = observe(observation, found, now_s, step)

        if settling.is_settled(observation, now_s):
            assert now_s - disturbed_s >= observation.window_s >= WINDOWS.closed_s
            assert step.companion is None


@given(st.lists(steps, max_size=30), st.lists(st.integers(0, LONGEST_S), max_size=5))
def test_unchanged_file_always_settles(story: list[Step], looks: list[int]) -> None:
    now_s, observation, found = 0, None, FILE
    for step in story:
        now_s += step.wait_s
        found = changed(found, sparse=step.sparse) if step.changes else found
        observation = observe(observation, found, now_s, step)

    still = Step(0, False, False, None, network=False, companion=None)
    for later_s in [0, *sorted(looks), LONGEST_S]:  # examining more often does not delay settling
        observation = observe(observation, found, now_s + later_s, still)

    assert observation is not None
    assert settling.is_settled(observation, now_s + LONGEST_S)
