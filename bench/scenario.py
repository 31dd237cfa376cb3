"""What a scenario is: something that is measured, the goals it is held to, and how it is told."""

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB, GIB = 1024 * 1024, 1024**3

Result = dict[str, Any]
"""What a run has shown, as it stands in the JSON document."""


@dataclass(frozen=True, slots=True)
class Options:
    """What ``make bench ARGS='...'`` was given; each scenario takes what concerns it."""

    dir: Path | None
    rounds: int
    peers: tuple[str, ...]
    gib: float
    swarm_files: int
    line_mbit: int
    line_s: float
    delays: tuple[int, ...]
    losses: tuple[float, ...]
    files: tuple[int, ...]
    burst: int
    rows: int
    idle_s: float
    folders: int
    slots: tuple[int, ...]
    profile: bool


@dataclass(frozen=True, slots=True)
class Goal:
    """
    What was measured against what it should be.

    *bound* is the most it may be, or with ``at_least`` the least. ``unit`` is empty for a ratio.
    """

    name: str
    measured: float
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Is it as it should be?"""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def cells(self) -> str:
        """Goal, measured, their ratio, and what is to be said of it, as cells of a table."""
        sign, unit = ("\u2265" if self.at_least else "\u2264"), f" {self.unit}" if self.unit else ""
        return (
            f"{self.name} | {sign} {self.bound:g}{unit} | {self.measured:.4g}{unit} |"
            f" {self.measured / self.bound:.2f} | {'' if self.met else 'missed'}"
        )


def _nothing(result: Result) -> Iterator[Goal]:
    yield from ()


def _no_plots(result: Result, folder: Path) -> Iterator[Path]:
    yield from ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    One thing that is measured.

    Args:
        run: Measures; what it returns becomes JSON.
        lines: The result as Markdown.
        goals: What it is held to.
        plots: Draws into a folder; the files it made.
    """

    name: str
    title: str
    run: Callable[[Options], Result]
    lines: Callable[[Result], Iterable[str]]
    goals: Callable[[Result], Iterable[Goal]] = _nothing
    plots: Callable[[Result, Path], Iterable[Path]] = _no_plots


def tell(line: str) -> None:
    """Say how far it is, on stderr."""
    sys.stderr.write(f"{line}\n")


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return float(statistics.median(values))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of each round: what the machine did meanwhile hit both alike."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Median (least - most)."""
    each = sorted(values)
    return f"{median(each):.{digits}f} ({each[0]:.{digits}f} - {each[-1]:.{digits}f})"


def percentile(values: Iterable[float], share: float) -> float:
    """The value that *share* of all are not above."""
    each = sorted(values)
    return each[min(len(each) - 1, int(share * len(each)))]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
