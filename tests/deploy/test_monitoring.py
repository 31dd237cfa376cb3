"""Alert rules and dashboard name metrics, labels and values that docs/monitoring/metrics.md lists."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from syncd.types import FileState

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
ALERTS = MONITORING / "alerts.yaml"

SELECTOR = re.compile(r"\b(syncd_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
OF_PROMETHEUS = frozenset({"job", "instance"})
"""Labels that each scrape adds."""

SEVERITIES = frozenset({"person", "warning", "info"})


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the table: its labels, and all words that it shows as code."""

    labels: frozenset[str]
    words: frozenset[str]


def metrics() -> dict[str, Metric]:
    found = {}
    for line in (MONITORING / "metrics.md").read_text().splitlines():
        if not line.startswith("| `syncd_"):
            continue
        name, _, labels, means = (cell.strip() for cell in line.strip("|").split("|"))
        words = frozenset(re.findall(r"`([^`]+)`", means))
        found[name.split("`")[1]] = Metric(frozenset(re.findall(r"`(\w+)`", labels)), words)
    return found


METRICS = metrics()


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(ALERTS.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return document


def expressions() -> Iterator[str]:
    """Every query of both files."""
    yield from (rule["expr"] for rule in rules())
    board = dashboard()
    yield from (target["expr"] for panel in board["panels"] for target in panel["targets"])
    yield from (note["expr"] for note in board["annotations"]["list"])
    queries = [each["query"] for each in board["templating"]["list"]]
    yield from (query["query"] for query in queries if isinstance(query, dict))


def values_of(metric: Metric, label: str) -> frozenset[str]:
    """What *label* may be; empty where that is open."""
    return frozenset(FileState) if label == "state" else metric.words


def faults_of(expression: str) -> Iterator[str]:
    """What *expression* asks for that no scrape has."""
    for name, matchers in SELECTOR.findall(expression):
        if name.startswith("syncd_process_"):
            continue
        if name not in METRICS:
            yield f"{name} is no metric"
            continue
        for label, value in MATCHER.findall(matchers):
            if label in OF_PROMETHEUS:
                continue
            if label not in METRICS[name].labels:
                yield f"{name} has no label {label}"
            known = values_of(METRICS[name], label)
            plain = [each for each in value.split("|") if re.fullmatch(r"[a-z_]+", each)]
            yield from (f"{name}: {label} is never {x}" for x in plain if x not in known)


def test_the_table_of_metrics_is_read() -> None:
    assert METRICS["syncd_hold"].labels == {"kind"}
    assert "operator" in METRICS["syncd_hold"].words
    assert len(METRICS) > 20


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("rate(syncd_sent_total[5m])", "syncd_sent_total is no metric"),
        ('syncd_hold{why="root"}', "syncd_hold has no label why"),
        ('syncd_hold{kind=~"root|asleep"}', "syncd_hold: kind is never asleep"),
        ('syncd_files{job="x", state="lost"}', "syncd_files: state is never lost"),
    ],
)
def test_what_no_scrape_has_is_noticed(expression: str, fault: str) -> None:
    assert next(faults_of(expression)) == fault


def test_every_query_asks_for_what_syncd_offers() -> None:
    asked = list(expressions())

    assert len(asked) > 30
    assert [fault for expression in asked for fault in faults_of(expression)] == []


def test_labels_that_a_legend_or_an_annotation_shows_are_there() -> None:
    labels = OF_PROMETHEUS.union(*(metric.labels for metric in METRICS.values()))
    shown = re.findall(r"\{\{\s*\$labels\.(\w+)", ALERTS.read_text())
    legends = [t["legendFormat"] for panel in dashboard()["panels"] for t in panel["targets"]]
    shown += re.findall(r"\{\{(\w+)\}\}", " ".join(legends))

    assert set(shown) <= labels


def test_every_alert_says_how_urgent_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in SEVERITIES, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert all(panel["description"] for panel in panels)


@pytest.mark.needs("promtool")
def test_promtool_takes_every_query_and_alerts_ring_when_they_should(tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yaml"), tmp_path)
    drawn = [t["expr"] for panel in dashboard()["panels"] for t in panel["targets"]]
    filled = [expr.replace("$__rate_interval", "5m") for expr in drawn]
    panels = {"name": "p", "rules": [{"record": f"p{n}", "expr": e} for n, e in enumerate(filled)]}
    (tmp_path / "panels.yaml").write_text(json.dumps({"groups": [panels]}))

    for command in (
        ["check", "rules", "alerts.yaml", "panels.yaml"],
        ["test", "rules", "alerts_test.yaml"],
    ):
        done = subprocess.run(
            ["promtool", *command], cwd=tmp_path, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
