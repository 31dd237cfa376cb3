"""
``/metrics``: what Prometheus reads. Names and meanings are written down in docs/monitoring/metrics.md.

The one room that knows the library. Nothing is counted here: each scrape turns the meter's counters
and the store's standing into families, in a registry of its own.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncd.monitoring.progress import Phase, Snapshot, Tally
from syncd.monitoring.status import Standing
from syncd.types import FileState, HoldKind

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

WATCH_MODES = ("events", "degraded", "walks")

_TALLIES: Mapping[Tally, tuple[str, str, tuple[str, ...]]] = {
    Tally.ENDED: ("files_ended", "Files that a worker let go of, by how.", ("end",)),
    Tally.PART: ("parts", "Parts of large files, by result.", ("result",)),
    Tally.REQUEST: ("requests", "Requests by endpoint and HTTP status.", ("endpoint", "status")),
    Tally.RETRY: ("retries", "What was tried again, by scope.", ("scope",)),
    Tally.URL_AGAIN: ("presigns_again", "Presigned URLs asked for anew.", ()),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What a scrape sees. Times are Unix milliseconds.

    Args:
        watch_mode: One of ``WATCH_MODES``.
        token_s: Seconds of life left in the session token; None if it has no known end.
        bandwidth: Bytes a second that sending is held to; None: not at all.
        slots: PUT requests that may run at once.
    """

    now_ms: int
    started_at: int
    version: str
    standing: Standing
    snapshot: Snapshot
    watch_mode: str
    token_s: float | None
    bandwidth: float | None
    slots: int


class Metrics(Collector):
    """Renders facts, one scrape after the other."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._facts: Facts | None = None
        ProcessCollector(namespace="syncd", registry=self._registry)
        self._registry.register(self)

    def render(self, facts: Facts) -> bytes:
        """The text format, version 0.0.4."""
        self._facts = facts
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        if self._facts is None:
            return
        yield from _counters(self._facts.snapshot)
        for metric in _gauges(self._facts):
            if metric.samples:
                yield metric


def _counters(now: Snapshot) -> Iterator[Metric]:
    for name, text, value in (
        ("hashed_bytes", "Bytes read and hashed.", now.hashed),
        ("sent_bytes", "Bytes handed to the object store's connections.", now.sent),
        ("adopted_bytes", "Bytes of files that the catalog held already.", now.adopted),
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
    now, standing = facts.snapshot, facts.standing
    python = platform.python_version()
    yield _family("build_info", "Always 1.", ("version", "python"), [((facts.version, python), 1)])
    yield _one("start_time_seconds", "Unix time of the start.", facts.started_at / 1000)
    files = {state: amount.files for state, amount in standing.amounts.items()}
    sizes = {state: amount.bytes for state, amount in standing.amounts.items()}
    yield _by("files", "Files on disk in each state.", "state", tuple(FileState), files)
    yield _by("file_bytes", "Bytes of the files in each state.", "state", tuple(FileState), sizes)
    yield _one("settling_files", "Files that do not stand still yet.", now.settling_files)
    phases = [running.phase for running in now.running]
    at_work = {phase.value: phases.count(phase) for phase in Phase}
    yield _by("running_files", "Files at work now.", "phase", list(at_work), at_work)
    waiting_at = standing.oldest_waiting_at
    waiting_s = 0.0 if waiting_at is None else max(0, facts.now_ms - waiting_at) / 1000
    yield _one("oldest_waiting_age_seconds", "Age of the oldest queued file.", waiting_s)
    yield _one("progress_age_seconds", "Seconds since any file got further.", now.idle_s)
    success_at = standing.last_success_at
    yield _one(
        "last_success_timestamp_seconds",
        "Unix time of the last file that came into the catalog.",
        None if success_at is None else success_at / 1000,
    )
    walks = [((root,), seconds) for root, seconds in now.walks.items()]
    yield _family("scan_duration_seconds", "How long the last walk took.", ("root",), walks)
    ends = [((r.path,), r.scanned_at / 1000) for r in standing.roots if r.scanned_at is not None]
    yield _family("last_scan_timestamp_seconds", "When the last walk ended.", ("root",), ends)
    yield _by("watch_mode", "1: in force.", "mode", WATCH_MODES, {facts.watch_mode: 1})
    held: dict[str, float] = {hold.kind: 1 for hold in standing.holds}
    yield _by("hold", "1: everything waits for that.", "kind", tuple(HoldKind), held)
    ages = [((hold.kind,), (facts.now_ms - hold.since) / 1000) for hold in standing.holds]
    yield _family("hold_age_seconds", "Seconds since the hold began.", ("kind",), ages)
    yield _one("token_remaining_seconds", "Life left in the session token.", facts.token_s)
    yield _one("bandwidth_limit_bytes_per_second", "Limit in force on sending.", facts.bandwidth)
    yield _one("put_slots", "PUT requests that may run at once.", facts.slots)
    yield _one(
        "abandoned_uploads",
        "Uploads that the server gave no way to abort.",
        standing.abandoned_uploads,
    )


def _one(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    """Without labels; without a sample where there is no value."""
    return _family(name, text, (), [] if value is None else [((), value)])


def _by(
    name: str, text: str, label: str, each: Iterable[str], values: Mapping[str, float]
) -> GaugeMetricFamily:
    """A sample for each of the label's values, 0 too: what is absent cannot raise an alert."""
    return _family(name, text, (label,), [((one,), values.get(one, 0)) for one in each])


def _family(
    name: str, text: str, labels: tuple[str, ...], samples: Sequence[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"syncd_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
