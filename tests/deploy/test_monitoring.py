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
SCRAPE_LABELS = frozenset({"job", "instance"})
"""Labels that Prometheus adds to each scrape."""

SEVERITIES = frozenset({"operator", "warning", "info"})


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the table: its labels, and all words in code style in its meaning."""

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
    """Yield every query of both files."""
    yield from (rule["expr"] for rule in rules())
    board = dashboard()
    yield from (target["expr"] for panel in board["panels"] for target in panel["targets"])
    yield from (note["expr"] for note in board["annotations"]["list"])
    queries = [each["query"] for each in board["templating"]["list"]]
    yield from (query["query"] for query in queries if isinstance(query, dict))


def values_of(metric: Metric, label: str) -> frozenset[str]:
    """Return the allowed values of *label*; empty if any value is allowed."""
    return frozenset(FileState) if label == "state" else metric.words


def errors_in(expression: str) -> Iterator[str]:
    """Yield what *expression* queries and no scrape contains."""
    for name, matchers in SELECTOR.findall(expression):
        if name.startswith("syncd_process_"):
            continue
        if name not in METRICS:
            yield f"{name} is not a metric"
            continue
        for label, value in MATCHER.findall(matchers):
            if label in SCRAPE_LABELS:
                continue
            if label not in METRICS[name].labels:
                yield f"{name} has no label {label}"
            known = values_of(METRICS[name], label)
            plain = [each for each in value.split("|") if re.fullmatch(r"[a-z_]+", each)]
            yield from (f"{name}: {label} is never {x}" for x in plain if x not in known)


def test_every_query_uses_documented_metrics() -> None:
    queries = list(expressions())

    assert len(queries) > 30
    assert [error for query in queries for error in errors_in(query)] == []


def test_legends_and_annotations_use_documented_labels() -> None:
    labels = SCRAPE_LABELS.union(*(metric.labels for metric in METRICS.values()))
    shown = re.findall(r"\{\{\s*\$labels\.(\w+)", ALERTS.read_text())
    legends = [t["legendFormat"] for panel in dashboard()["panels"] for t in panel["targets"]]
    shown += re.findall(r"\{\{(\w+)\}\}", " ".join(legends))

    assert set(shown) <= labels


def test_every_alert_has_severity_summary_and_description() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in SEVERITIES, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


@pytest.mark.needs("promtool")
def test_promtool_accepts_every_query_and_alert_tests_pass(tmp_path: Path) -> None:
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
