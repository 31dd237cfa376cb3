"""The supply of prepared homes that the tests of the command share."""

from pathlib import Path

import pytest

from tests.integration.harness import YOUNGEST_S, Nursery


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize(("large", "homes"), [(False, 500), (True, 60)])
def test_nursery_never_runs_out_and_no_home_is_too_young(
    tmp_path: Path, large: bool, homes: int
) -> None:
    clock, written_s = Clock(), dict[int, float]()
    stock = tmp_path / "stock"
    nursery = Nursery(stock, lambda: clock.now_s, clock.sleep)

    for number in range(homes):
        written_s |= {
            tree.stat().st_ino: clock.now_s
            for tree in stock.iterdir()
            if tree.stat().st_ino not in written_s
        }
        home = nursery.home(tmp_path / "home", None, large=large)
        assert clock.now_s - written_s.pop(home.models.stat().st_ino) >= YOUNGEST_S, number
        home.models.rename(tmp_path / f"used-{number}")
        if large:
            (tmp_path / f"used-{number}/checkpoints/large.ckpt").unlink()

    first, second = ((tmp_path / f"used-{n}/vae/two.pt").read_bytes() for n in (0, homes - 1))
    assert first != second
