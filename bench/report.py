"""The report as Markdown: goals first, then each scenario."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.machine import sentence
from bench.scenario import Scenario, table

Document = dict[str, Any]
"""``machine`` and ``scenarios``: the contents of the ``--json`` file."""

INTRODUCTION = """\
# Performance

`make bench` compares syncd with similar tools on the same files. It runs them in turns and writes this page:

```sh
make bench                                                    # everything, on an idle machine
make bench ARGS='--only startup,latency'                      # some scenarios
make bench ARGS='--quick'                                     # small sizes, to check that it runs
make bench ARGS='--json runs.json --write docs/performance.md'   # save all runs and write this page
make bench ARGS='--only warm --profile'                       # profile
```

Times depend on the machine; ratios within one run are comparable. Each ratio is the median of the ratios
of all rounds. *syncd* is the complete job: start, scan, structure check, hash, presign, upload, comparison,
complete, register, database, exit. *syncd, upload only* sends the file with the same code and does nothing
else. The other tools only upload. Profiles show the function names of the measured version."""


def markdown(
    document: Document, scenarios: Sequence[Scenario], pictures: Path | None = None
) -> Iterator[str]:
    """
    Yield the lines of the report.

    Args:
        pictures: Draw the plots into this folder, ``img`` next to the report.
    """
    known = [scenario for scenario in scenarios if scenario.name in document["scenarios"]]
    yield INTRODUCTION
    yield ""
    yield "## Goals and results"
    yield ""
    yield sentence(document["machine"])
    yield ""
    yield from _goals(document, known)
    yield ""
    for scenario in known:
        yield from _section(document, scenario, pictures)


def _goals(document: Document, scenarios: Sequence[Scenario]) -> Iterator[str]:
    heads = ("Measure", "Goal", "Measured", "Measured / goal", "", "Details")
    yield from table(
        heads,
        (
            (goal.cells(), f"[{scenario.name}](#{_anchor(scenario)})")
            for scenario in scenarios
            for goal in scenario.goals(document["scenarios"][scenario.name])
        ),
    )


def _section(document: Document, scenario: Scenario, pictures: Path | None) -> Iterator[str]:
    result = document["scenarios"][scenario.name]
    yield f"## {scenario.title}"
    yield ""
    yield from scenario.lines(result)
    if pictures is not None:
        for picture in scenario.plots(result, pictures):
            yield f"![{picture.stem}]({pictures.name}/{picture.name})"
            yield ""


def _anchor(scenario: Scenario) -> str:
    """Return the anchor that GitHub generates for the heading."""
    kept = (c for c in scenario.title.lower() if c.isalnum() or c in " -")
    return "".join(kept).replace(" ", "-")
