"""Progress counters of a run, in memory only. Numbers are bytes unless the name says otherwise."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from syncd.types import Job

BEAT_S = 5.0  # the duration of an interval (a beat)
BEATS = 12  # the number of beats of a rate: the last minute, including the current beat


class Phase(StrEnum):
    STARTING = "starting"
    HASHING = "hashing"
    SENDING = "sending"
    FINISHING = "finishing"


class Settling(NamedTuple):
    """
    A file that is still changing; ``path`` and ``reason`` are printable.

    ``seconds_left`` is the time until it is queued if it does not change; None while ``reason`` blocks it.
    """

    path: str
    size: int
    seconds_left: float | None
    reason: str | None


class Tally(StrEnum):
    """Events that are counted by label since the start."""

    ENDED = "ended"  # ended runs of files, by result
    PART = "part"  # parts of large files, by result
    REQUEST = "request"  # requests, by endpoint and status
    RETRY = "retry"  # retries, by scope
    URL_AGAIN = "url_again"  # URLs requested again


@dataclass(slots=True)
class Running:
    """A running job; ``sent`` does not count the bytes of failed tries."""

    job_id: int
    rel_path: str
    size: int
    phase: Phase = Phase.STARTING
    hashed: int = 0
    sent: int = 0
    parts: int | None = None
    parts_done: int = 0


@dataclass
class _Counters:
    settling_files: int = 0
    finished_files: int = 0
    finished: int = 0
    registered_files: int = 0
    adopted_files: int = 0
    failed_files: int = 0
    hashed: int = 0
    sent: int = 0
    adopted: int = 0


@dataclass(kw_only=True)
class Snapshot(_Counters):
    """
    All counters at one moment.

    ``expected`` and ``finished`` are the bytes of all files and of the finished files of this run.
    ``hashed`` and ``sent`` include repeated work; ``adopted`` counts bytes that were in the catalog before.
    Rates are bytes per second over the last minute. ``idle_s`` is the time since any file made progress
    (see ``_Advance``) or ended, ``scans`` the duration of the last scan of each root.
    """

    running: tuple[Running, ...]
    expected_files: int
    expected: int
    sent_rate: float
    hashed_rate: float
    idle_s: float
    tallies: Mapping[tuple[Tally, tuple[str, ...]], int]
    scans: Mapping[str, float]


@dataclass(slots=True)
class _Advance:
    """
    The progress of a job over all its tries, without bytes that are merely sent again.

    After a try that got further than all earlier ones, the bytes of the next try count as progress. After a
    try that got no further they do not: a server that always fails at the same byte makes no progress.
    """

    sent: int = 0
    furthest: int = 0
    counted: int = 0
    grew: bool = False
    got_further: bool = False
    counts_again: bool = False

    def follow(self, sent: int) -> bool:
        """Update with the bytes sent or stored now, and return whether this is progress."""
        if sent < self.sent:
            if self.grew:  # several failed parts in a row are one failure
                self.counts_again, self.got_further, self.grew = self.got_further, False, False
            self.counted = sent if self.counts_again else self.furthest
        elif sent > self.sent:
            self.grew = True
        self.sent = sent
        if sent <= self.counted:
            return False
        self.got_further |= sent > self.furthest
        self.counted, self.furthest = sent, max(sent, self.furthest)
        return True


class RateHistory:
    """Bytes in each of the last ``BEATS`` beats. Beats without bytes are filled in on access."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._started_s = now_s()
        self._beat = 0
        self._bytes = deque([0], BEATS)

    def add(self, count: int) -> None:
        self._advance()
        self._bytes[-1] += count

    def rate(self) -> float:
        """Return bytes per second over the last minute, or since the start."""
        self._advance()
        into_beat_s = self._now_s() - self._started_s - self._beat * BEAT_S
        return sum(self._bytes) / max((len(self._bytes) - 1) * BEAT_S + into_beat_s, 1.0)

    def _advance(self) -> None:
        beat = int((self._now_s() - self._started_s) / BEAT_S)
        self._bytes.extend([0] * min(beat - self._beat, BEATS))
        self._beat = beat


class Meter:
    """Thread-safe counters of one run; ``now_s`` is a monotonic clock."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._moved_s = now_s()
        self._sending, self._hashing = RateHistory(now_s), RateHistory(now_s)
        self._tallies: Counter[tuple[Tally, tuple[str, ...]]] = Counter()
        self._scans: dict[str, float] = {}
        self._lock = threading.Lock()
        self._running: dict[int, Running] = {}
        self._advances: dict[int, _Advance] = {}
        self._expected: dict[int, int] = {}
        self._counters = _Counters()

    def expect(self, job_id: int, size: int) -> None:
        with self._lock:
            self._expected[job_id] = size

    def settling(self, files: int) -> None:
        """Set the number of files that are still changing."""
        with self._lock:
            self._counters.settling_files = files

    def begin(self, job: Job) -> None:
        with self._lock:
            if not self._running and job.id not in self._advances:
                self._moved_s = self._now_s()  # the meter was idle because there was no work
            self._advances.setdefault(job.id, _Advance()).follow(0)
            self._expected.setdefault(job.id, job.fingerprint.size)
            self._running[job.id] = Running(job.id, job.rel_path, job.fingerprint.size)

    def phase(self, job_id: int, phase: Phase) -> None:
        with self._lock:
            if (running := self._running.get(job_id)) is not None:
                running.phase = phase

    def parts(self, job_id: int, total: int, done: int, sent: int) -> None:
        """Set the parts of a job, of which *done* (*sent* bytes) are stored."""
        with self._lock:
            if (running := self._running.get(job_id)) is not None:
                running.parts, running.parts_done, running.sent = total, done, sent

    def part_done(self, job_id: int) -> None:
        with self._lock:
            if (running := self._running.get(job_id)) is not None:
                running.parts_done += 1

    def count(self, what: Tally, *labels: str) -> None:
        with self._lock:
            self._tallies[what, labels] += 1

    def scanned(self, root: str, seconds: float) -> None:
        with self._lock:
            self._scans[root] = seconds

    def add_hashed(self, job_id: int, count: int) -> None:
        with self._lock:
            self._counters.hashed += count
            self._hashing.add(count)
            self._moved_s = self._now_s()
            if (running := self._running.get(job_id)) is not None:
                running.hashed += count

    def add_sent(self, job_id: int, count: int) -> None:
        """Add sent bytes of a job; negative if a try failed."""
        with self._lock:
            if count > 0:
                self._counters.sent += count
                self._sending.add(count)
            if (running := self._running.get(job_id)) is not None:
                running.sent += count
                if self._advances.setdefault(job_id, _Advance()).follow(running.sent):
                    self._moved_s = self._now_s()

    @property
    def sent(self) -> int:
        """All bytes sent so far, including repeated ones."""
        return self._counters.sent

    def end(
        self, job_id: int, *, registered: bool = False, adopted: bool = False, failed: bool = False
    ) -> None:
        """End the run of a job; at most one flag is set, if the job is finished."""
        with self._lock:
            running, counters = self._running.pop(job_id, None), self._counters
            if registered or adopted or failed:
                self._advances.pop(job_id, None)
                size = running.size if running is not None else self._expected.get(job_id, 0)
                counters.finished_files += 1
                counters.finished += size
                counters.registered_files += registered
                counters.adopted_files += adopted
                counters.failed_files += failed
                counters.adopted += size if adopted else 0
                self._moved_s = self._now_s()

    def drop(self, job_id: int) -> None:
        """Remove a job that was superseded."""
        with self._lock:
            self._running.pop(job_id, None)
            self._advances.pop(job_id, None)
            self._expected.pop(job_id, None)

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot(
                **vars(self._counters),
                running=tuple(map(replace, self._running.values())),
                expected_files=len(self._expected),
                expected=sum(self._expected.values()),
                sent_rate=self._sending.rate(),
                hashed_rate=self._hashing.rate(),
                idle_s=self._now_s() - self._moved_s,
                tallies=dict(self._tallies),
                scans=dict(self._scans),
            )
