"""
Which seeds a test tries: the same in every push, others beside them in larger runs.

``SYNCD_SEEDS=a,b`` runs just these.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.scale import SEED

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Seeds:
    """
    The seeds that once failed, one a line of *path*, then numbers up to *fixed*, then new ones.

    Args:
        count: How many beside those that once failed.
    """

    path: Path
    fixed: int
    count: int

    def listed(self) -> list[str]:
        """Those that once failed."""
        lines = self.path.read_text("utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    def all(self) -> list[str]:
        """In the order in which they are tried."""
        same = map(str, range(min(self.fixed, self.count)))
        return [*self.listed(), *same, *(f"{SEED}.{n}" for n in range(self.fixed, self.count))]

    def batches(self, size: int) -> list[list[str]]:
        """All of them, so many in one test, so that the processes of a run can share them."""
        if chosen := os.environ.get("SYNCD_SEEDS"):
            return [chosen.split(",")]
        seeds = self.all()
        return [seeds[start : start + size] for start in range(0, len(seeds), size)]

    def remembering(self, attempt: Callable[[str], Result]) -> Callable[[str], Result]:
        """*attempt*, and a seed that fails it joins the list, unless every run tries it anyway."""

        def one(seed: str) -> Result:
            try:
                return attempt(seed)
            except Exception:
                if seed not in (*self.listed(), *map(str, range(self.fixed))):
                    with self.path.open("a", encoding="utf-8") as file:
                        file.write(f"{seed}\n")
                raise

        return one


def named(batch: list[str]) -> str:
    """A batch's name in a test's."""
    return f"{batch[0]}-{batch[-1]}"
