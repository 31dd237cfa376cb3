"""
Prometheus metrics at ``/metrics``; docs/monitoring/metrics.md documents them.

Each scrape converts the counters of the meter and the status in the store to metric families.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncd.monitoring.progress import Phase, Snapshot, Tally
from syncd.monitoring.status import StatusSummary
from syncd.types import FileState, HoldKind

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

WATCH_MODES = ("events", "degraded", "scans")

_TALLIES: Mapping[Tally, tuple[str, str, tuple[str, ...]]] = {
    Tally.ENDED: ("files_ended", "Files whose run ended, by result.", ("end",)),
    Tally.PART: ("parts", "Parts of large files, by result.", ("result",)),
    Tally.REQUEST: ("requests", "Requests by endpoint and HTTP status.", ("endpoint", "status")),
    Tally.RETRY: ("retries", "Retries by scope.", ("scope",)),
    Tally.URL_AGAIN: ("presigns_again", "Presigned URLs requested again.", ()),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """
    The data of a scrape. Times are Unix milliseconds.

    Args:
        watch_mode: One of ``WATCH_MODES``.
        token_s: The remaining lifetime of the session token in seconds; None if unknown.
        bandwidth: The bandwidth limit in bytes per second; None: no limit.
        calls_per_s: The current pace of API calls; None: no pace.
    """

    now_ms: int
    started_at: int
    version: str
    status: StatusSummary
    snapshot: Snapshot
    watch_mode: str
    token_s: float | None
    bandwidth: float | None
    calls_per_s: float | None
    slots: int


class _FactsCollector(Collector):
    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        yield from _counters(self._facts.snapshot)
        yield from (metric for metric in _gauges(self._facts) if metric.samples)


def render(facts: Facts) -> bytes:
    """Return the metrics in text format, version 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(namespace="syncd", registry=registry)
    registry.register(_FactsCollector(facts))
    return generate_latest(registry)


def _counters(now: Snapshot) -> Iterator[Metric]:
    for name, text, value in (
        ("hashed_bytes", "Bytes read and hashed.", now.hashed),
        ("sent_bytes", "Bytes handed to the object store's connections.", now.sent),
        ("adopted_bytes", "Bytes of files that were already in the catalog.", now.adopted),
    ):
        yield CounterMetricFamily(f"syncd_{name}", text, value=value)
    for tally, (name, text, labels) in _TALLIES.items():
        family = CounterMetricFamily(f"syncd_{name}", text, labels=labels)
        counts: dict[tuple[str, ...], int] = {} if labels else {(): 0}
        counts |= {values: n for (what, values), n in now.tallies.items() if what is tally}
        for values, count in sorted(counts.items()):
            family.add_metric(values, count)
        yield family


def _gauges(facts: Facts) -> Iterator[GaugeMetricFamily]:
    now, status = facts.snapshot, facts.status
    python = platform.python_version()
    yield _family("build_info", "Always 1.", ("version", "python"), [((facts.version, python), 1)])
    yield _one("start_time_seconds", "Unix time of the start.", facts.started_at / 1000)
    files = {state: amount.files for state, amount in status.amounts.items()}
    sizes = {state: amount.bytes for state, amount in status.amounts.items()}
    yield _by("files", "Files on disk by state.", "state", tuple(FileState), files)
    text = "Bytes of the files on disk by state."
    yield _by("file_bytes", text, "state", tuple(FileState), sizes)
    yield _one("settling_files", "Files that are still changing.", now.settling_files)
    phases = Counter(str(running.phase) for running in now.running)
    text = "Files that a worker processes, by phase."
    yield _by("running_files", text, "phase", tuple(Phase), phases)
    waiting_at = status.oldest_waiting_at
    waiting_s = 0.0 if waiting_at is None else max(0, facts.now_ms - waiting_at) / 1000
    yield _one("oldest_waiting_age_seconds", "Age of the oldest queued file.", waiting_s)
    yield _one("progress_age_seconds", "Seconds since any file made progress.", now.idle_s)
    success_s = None if status.last_success_at is None else status.last_success_at / 1000
    text = "Unix time when the last file was registered."
    yield _one("last_success_timestamp_seconds", text, success_s)
    scans = [((root,), seconds) for root, seconds in now.scans.items()]
    yield _family("scan_duration_seconds", "Duration of the last scan.", ("root",), scans)
    ends = [((r.path,), r.scanned_at / 1000) for r in status.roots if r.scanned_at is not None]
    yield _family("last_scan_timestamp_seconds", "When the last scan ended.", ("root",), ends)
    yield _by("watch_mode", "1 for the current mode.", "mode", WATCH_MODES, {facts.watch_mode: 1})
    held: dict[str, float] = {hold.kind: 1 for hold in status.holds}
    yield _by("hold", "1 while uploads are on hold for this reason.", "kind", tuple(HoldKind), held)
    ages = [((hold.kind,), (facts.now_ms - hold.since) / 1000) for hold in status.holds]
    yield _family("hold_age_seconds", "Seconds since the hold started.", ("kind",), ages)
    yield _one("token_remaining_seconds", "Remaining lifetime of the session token.", facts.token_s)
    yield _one("bandwidth_limit_bytes_per_second", "The current upload limit.", facts.bandwidth)
    yield _one("api_calls_per_second_limit", "The current pace of API calls.", facts.calls_per_s)
    yield _one("put_slots", "The current limit of concurrent PUT requests.", facts.slots)
    yield _one("abandoned_uploads", "Uploads that cannot be aborted.", status.abandoned_uploads)


def _one(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    """Return a metric without labels, and without a sample if there is no value."""
    return _family(name, text, (), [] if value is None else [((), value)])


def _by(
    name: str, text: str, label: str, keys: Iterable[str], values: Mapping[str, float]
) -> GaugeMetricFamily:
    """Return a sample for every label value, including 0, so that alerts can rely on it."""
    return _family(name, text, (label,), [((key,), values.get(key, 0)) for key in keys])


def _family(
    name: str, text: str, labels: tuple[str, ...], samples: Sequence[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"syncd_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
