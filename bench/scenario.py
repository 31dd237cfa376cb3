"""Base types: a scenario with its measurement, goals and report."""

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB, GIB = 1024 * 1024, 1024**3

Result = dict[str, Any]
"""The result of a run, as stored in the JSON document."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``make bench ARGS='...'``."""

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
    A measured value and its goal.

    ``bound`` is the maximum, or with ``at_least`` the minimum. ``unit`` is empty for a ratio.
    """

    name: str
    measured: float
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def cells(self) -> str:
        """Return goal, measured value, their ratio and whether it was missed, as table cells."""
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
    One benchmark.

    Args:
        run: Measures and returns a result that can be stored as JSON.
        lines: Formats the result as Markdown.
        goals: Compares the result with its goals.
        plots: Draws into a folder and yields the files.
    """

    name: str
    title: str
    run: Callable[[Options], Result]
    lines: Callable[[Result], Iterable[str]]
    goals: Callable[[Result], Iterable[Goal]] = _nothing
    plots: Callable[[Result, Path], Iterable[Path]] = _no_plots


def report_progress(line: str) -> None:
    """Print progress to stderr."""
    sys.stderr.write(f"{line}\n")


def median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of each round, in which both had the same conditions."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Format the values as median (minimum - maximum)."""
    each = sorted(values)
    return f"{median(each):.{digits}f} ({each[0]:.{digits}f} - {each[-1]:.{digits}f})"


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that *share* of all values do not exceed."""
    each = sorted(values)
    return each[min(len(each) - 1, int(share * len(each)))]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
