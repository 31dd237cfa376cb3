import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.files import settling
from syncd.core.files.settling import Observation, Windows
from syncd.types import Fingerprint, FoundFile, HintKind

WINDOWS = Windows(quiet_s=30, closed_s=10, network_s=90)
FILE = FoundFile(
    1, "loras/x.pt", Fingerprint(1, 2, 4096, 5 * settling.SECOND_NS, 6), allocated=4096
)


def observe(
    before: Observation | None,
    now_s: float,
    *,
    found: FoundFile = FILE,
    hint: HintKind | None = None,
    network: bool = False,
    companion: str | None = None,
) -> Observation:
    return settling.observe(
        before,
        found,
        now_s=now_s,
        hint=hint,
        windows=WINDOWS,
        network=network,
        companion=companion,
    )


@pytest.mark.parametrize(
    ("hint", "window_s"),
    [
        (None, 30),
        (HintKind.CREATED, 30),
        (HintKind.RESCAN, 30),
        (HintKind.DELETED, 30),
        (HintKind.CLOSED, 10),
        (HintKind.MOVED, 10),
    ],
)
def test_window_depends_on_hint(hint: HintKind | None, window_s: float) -> None:
    observation = observe(None, 100, hint=hint)

    assert settling.settles_at_s(observation) == 100 + window_s
    assert not settling.is_settled(observation, 99.9 + window_s)
    assert settling.is_settled(observation, 100 + window_s)


@pytest.mark.parametrize("hint", [None, HintKind.CLOSED])
def test_network_file_system_has_longest_window(
    hint: HintKind | None,
) -> None:
    assert observe(None, 0, hint=hint, network=True).window_s == 90


@pytest.mark.parametrize(("network", "window_s"), [(False, 20), (True, 180)])
def test_sparse_file_has_double_window(network: bool, window_s: float) -> None:
    sparse = FILE._replace(allocated=4095)

    assert (
        observe(None, 0, found=sparse, hint=HintKind.CLOSED, network=network).window_s == window_s
    )


@pytest.mark.parametrize("field", ["dev", "inode", "size", "mtime_ns", "ctime_ns"])
def test_changed_fingerprint_restarts_window(field: str) -> None:
    before = observe(None, 0, hint=HintKind.CLOSED)
    moved = FILE._replace(fingerprint=FILE.fingerprint._replace(**{field: 1234}), allocated=1 << 20)

    observation = observe(before, 9, found=moved)

    assert (observation.since_s, observation.window_s) == (9, 30)


def test_companion_blocks_settling_and_is_quoted() -> None:
    observation = observe(None, 0, companion="x.pt.aria2\n")

    assert settling.settles_at_s(observation) == math.inf
    assert not settling.is_settled(observation, 1e12)
    assert observation.blocked_by == "a download is in progress: x.pt.aria2\\n"


def test_modification_time_zero_blocks_settling() -> None:
    broken = FILE._replace(fingerprint=FILE.fingerprint._replace(mtime_ns=0))

    observation = observe(None, 0, found=broken)

    assert settling.settles_at_s(observation) == math.inf
    assert "rsync" in (observation.blocked_by or "")


# -- properties ----------------------------------------------------------------------------------

LONGEST_S = 2 * 90


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


def observed(before: Observation | None, found: FoundFile, now_s: float, step: Step) -> Observation:
    return observe(
        before,
        now_s,
        found=found,
        hint=step.hint,
        network=step.network,
        companion=step.companion,
    )


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
        observation = observed(observation, found, now_s, step)

        if settling.is_settled(observation, now_s):
            assert now_s - disturbed_s >= observation.window_s >= WINDOWS.closed_s
            assert step.companion is None


@given(st.lists(steps, max_size=30), st.lists(st.integers(0, LONGEST_S), max_size=5))
def test_unchanged_file_always_settles(story: list[Step], looks: list[int]) -> None:
    now_s, observation, found = 0, None, FILE
    for step in story:
        now_s += step.wait_s
        found = changed(found, sparse=step.sparse) if step.changes else found
        observation = observed(observation, found, now_s, step)

    still = Step(0, False, False, None, network=False, companion=None)
    for later_s in [0, *sorted(looks), LONGEST_S]:  # examining more often does not delay settling
        observation = observed(observation, found, now_s + later_s, still)

    assert observation is not None
    assert settling.is_settled(observation, now_s + LONGEST_S)
