import math

import pytest

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


def test_unchanged_file_keeps_its_window() -> None:
    first = observe(None, 0, hint=HintKind.CLOSED)

    assert observe(first, 9) == first


@pytest.mark.parametrize("hint", list(HintKind))
def test_hint_restarts_window(hint: HintKind) -> None:
    assert observe(observe(None, 0), 29, hint=hint).since_s == 29


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


def test_removed_companion_restarts_window() -> None:
    blocked = observe(None, 0, companion="x.pt.aria2")

    assert settling.settles_at_s(observe(blocked, 500)) == 530


def test_modification_time_zero_blocks_settling() -> None:
    broken = FILE._replace(fingerprint=FILE.fingerprint._replace(mtime_ns=0))

    observation = observe(None, 0, found=broken)

    assert settling.settles_at_s(observation) == math.inf
    assert "rsync" in (observation.blocked_by or "")
