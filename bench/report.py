"""What was measured, as Markdown: goals first, then each scenario."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.machine import sentence
from bench.scenario import Scenario, table

Document = dict[str, Any]
"""``machine`` and ``scenarios``: what ``--json`` keeps."""

INTRODUCTION = """\
# How fast, and at what cost

`make bench` measures syncd beside its peers, on the same bytes and in turns; this page is written by it:

```sh
make bench                                                    # everything, on a quiet machine
make bench ARGS='--only startup,latency'                      # some scenarios
make bench ARGS='--quick'                                     # everything, too small to mean anything
make bench ARGS='--json runs.json --write docs/performance.md'   # keep every run, write this page
make bench ARGS='--only warm --profile'                       # where the time goes
```

Seconds belong to one machine; ratios of one run are what is compared, and each is the median of the ratios
of its rounds. *syncd* is the whole path: start, walk, structure check, hash, presign, send, compare,
complete, register, database, exit. *syncd's door* is what it sends through, without anything around it:
upload only. The peers only send."""


def markdown(
    document: Document, scenarios: Sequence[Scenario], pictures: Path | None = None
) -> Iterator[str]:
    """
    The whole report.

    Args:
        pictures: Draw the curves into this folder, which is ``img`` beside the report.
    """
    known = [scenario for scenario in scenarios if scenario.name in document["scenarios"]]
    yield INTRODUCTION
    yield ""
    yield "## Goals of the last run"
    yield ""
    yield sentence(document["machine"])
    yield ""
    yield from _goals(document, known)
    yield ""
    for scenario in known:
        yield from _section(document, scenario, pictures)


def _goals(document: Document, scenarios: Sequence[Scenario]) -> Iterator[str]:
    heads = ("Measure", "goal", "measured", "measured / goal", "", "see")
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
    """As GitHub makes it of a heading."""
    kept = (c for c in scenario.title.lower() if c.isalnum() or c in " -")
    return "".join(kept).replace(" ", "-")
