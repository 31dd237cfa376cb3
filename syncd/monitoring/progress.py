"""
How far things are, counted while they happen and read by whoever draws.

The counters live in memory only; what is finished is in the store. Sending threads count into the
meter, a screen or the control surface takes snapshots of it. Every number is bytes unless its name
says otherwise.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from syncd.types import Job

BEAT_S = 5.0
"""Seconds that one figure of a ``Pulse`` covers."""

BEATS = 60
"""Figures that a ``Pulse`` remembers: five minutes."""

RATE_BEATS = 12
"""Figures that a rate is averaged over: the last minute, the beat that is not over yet included."""


class Phase(StrEnum):
    """What a running job is doing."""

    STARTING = "starting"
    HASHING = "hashing"
    SENDING = "sending"
    FINISHING = "finishing"


class Settling(NamedTuple):
    """
    A file that still changes, as commands show it; ``path`` and ``reason`` are printable.

    ``seconds_left`` until it is queued if nothing changes any more; None while *why* keeps it.
    """

    path: str
    size: int
    seconds_left: float | None
    reason: str | None


class Tally(StrEnum):
    """What is counted by a label beside bytes and files, since the start."""

    ENDED = "ended"  # files that a worker let go of, by how
    PART = "part"  # parts of large files, by result
    REQUEST = "request"  # requests, by endpoint and status
    RETRY = "retry"  # what was tried again, by scope
    URL_AGAIN = "url_again"  # URLs signed anew


@dataclass(slots=True)
class Running:
    """
    One job at work; in a snapshot, as it was then.

    ``sent`` counts bytes handed to the wire; a failed try takes them back. ``stored`` has a bit for
    each part that the store holds (part 1 is bit 0); ``on_wire`` is the bytes sent so far of each
    part under way, by its number.
    """

    job_id: int
    rel_path: str
    size: int
    phase: Phase = Phase.STARTING
    hashed: int = 0
    sent: int = 0
    parts: int | None = None
    stored: int = 0
    on_wire: dict[int, int] = field(default_factory=dict)

    @property
    def parts_done(self) -> int:
        """How many parts the store holds."""
        return self.stored.bit_count()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    Everything at one moment.

    ``expected`` and ``finished`` are bytes of files this run has to bring into the catalog and has
    brought there; ``hashed`` and ``sent`` count the run's work, repeated work included, and
    ``adopted`` the bytes that were in the catalog already. Rates are bytes a second over the last
    minute, ``sent_beats`` bytes in each ``BEAT_S`` of the last minutes. ``idle_s``: seconds since
    any file made progress (see ``_Advance``) or ended. ``walks``: seconds of the last walk of each root.
    """

    running: tuple[Running, ...]
    settling_files: int
    expected_files: int
    expected: int
    finished_files: int
    finished: int
    registered_files: int
    adopted_files: int
    failed_files: int
    hashed: int
    sent: int
    adopted: int
    sent_rate: float
    hashed_rate: float
    sent_beats: tuple[int, ...]
    idle_s: float
    tallies: Mapping[tuple[Tally, tuple[str, ...]], int]
    walks: Mapping[str, float]


@dataclass(slots=True)
class _Advance:
    """
    How far a job got in all its tries, to tell progress from bytes that are sent again.

    After a try that got further than any before it, the bytes of the next one count as progress
    again: a long body on a slow link is not stuck because it broke off once. After a try that got
    no further, they do not: a server that breaks off at the same byte each time makes none.
    """

    sent: int = 0
    furthest: int = 0
    counted: int = 0
    grew: bool = False
    got_further: bool = False
    counts_again: bool = False

    def follow(self, sent: int) -> bool:
        """Whether it is progress that *sent* bytes of the job are on their way or stored by now."""
        if sent < self.sent:
            if self.grew:  # several parts may fail one after another: that is one failure
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


class Pulse:
    """
    Bytes by the beat (``BEAT_S`` seconds), over the last ``BEATS`` beats.

    Nothing has to be woken for it: a beat that nobody added to is filled in when it is looked at.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._began_s = now_s()
        self._beat = 0
        self._bytes = deque([0], BEATS)

    def add(self, count: int) -> None:
        """*count* bytes moved now."""
        self._go_on()
        self._bytes[-1] += count

    def figures(self) -> list[int]:
        """Bytes of each whole beat so far, the oldest first."""
        self._go_on()
        return list(self._bytes)[:-1]

    def rate(self) -> float:
        """Bytes a second, over the last minute or as much of it as there was."""
        self._go_on()
        recent = list(self._bytes)[-RATE_BEATS:]
        into_beat_s = self._now_s() - self._began_s - self._beat * BEAT_S
        return sum(recent) / max((len(recent) - 1) * BEAT_S + into_beat_s, 1.0)

    def _go_on(self) -> None:
        beat = int((self._now_s() - self._began_s) / BEAT_S)
        self._bytes.extend([0] * min(beat - self._beat, BEATS))
        self._beat = beat


class Meter:
    """
    Thread-safe counters of one run.

    Args:
        now_s: A clock that never goes back, for rates and for how long nothing moved.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._moved_s = now_s()
        self._sending, self._hashing = Pulse(now_s), Pulse(now_s)
        self._tallies: Counter[tuple[Tally, tuple[str, ...]]] = Counter()
        self._walks: dict[str, float] = {}
        self._adopted_bytes = 0
        self._lock = threading.Lock()
        self._running: dict[int, Running] = {}
        self._advances: dict[int, _Advance] = {}
        self._expected: dict[int, int] = {}
        self._settling = 0
        self._finished_files = self._finished = 0
        self._registered = self._adopted = self._failed = 0
        self._hashed = self._sent = 0

    def expect(self, job_id: int, size: int) -> None:
        """A job stands in the queue."""
        with self._lock:
            self._expected[job_id] = size

    def settling(self, files: int) -> None:
        """So many files have not stood still long enough yet."""
        with self._lock:
            self._settling = files

    def begin(self, job: Job) -> None:
        """A worker took *job*."""
        with self._lock:
            if not self._running and job.id not in self._advances:
                self._moved_s = self._now_s()  # until now there was nothing to do
            self._advances.setdefault(job.id, _Advance()).follow(0)
            self._expected.setdefault(job.id, job.fingerprint.size)
            self._running[job.id] = Running(job.id, job.rel_path, job.fingerprint.size)

    def phase(self, job_id: int, phase: Phase) -> None:
        """The job went on to its next phase."""
        with self._lock:
            if (running := self._running.get(job_id)) is not None:
                running.phase = phase

    def parts(self, job_id: int, total: int, missing: Collection[int], sent: int) -> None:
        """The job travels in parts; all but the *missing* numbers (*sent* bytes) are already there."""
        stored = (1 << total) - 1
        for number in missing:
            stored &= ~_bit(number)
        with self._lock:
            if (running := self._running.get(job_id)) is not None:
                running.parts, running.stored, running.sent = total, stored, sent
                running.on_wire.clear()

    def part_done(self, job_id: int, number: int) -> None:
        """Part *number* is acknowledged and committed."""
        with self._lock:
            running = self._running.get(job_id)
            if running is not None:
                running.stored |= _bit(number)
                running.on_wire.pop(number, None)

    def count(self, what: Tally, *labels: str) -> None:
        """One more of *what*."""
        with self._lock:
            self._tallies[what, labels] += 1

    def walked(self, root: str, seconds: float) -> None:
        """A walk over the whole of *root* ended."""
        with self._lock:
            self._walks[root] = seconds

    def add_hashed(self, job_id: int, count: int) -> None:
        """*count* bytes were read and hashed."""
        with self._lock:
            self._hashed += count
            self._hashing.add(count)
            self._moved_s = self._now_s()
            running = self._running.get(job_id)
            if running is not None:
                running.hashed += count

    def add_sent(self, job_id: int, count: int, part: int | None = None) -> None:
        """*count* bytes (of *part*) went to the wire; negative: a try failed, they do not count."""
        with self._lock:
            if count > 0:
                self._sent += count
                self._sending.add(count)
            running = self._running.get(job_id)
            if running is not None:
                running.sent += count
                advance = self._advances.setdefault(job_id, _Advance())
                if advance.follow(running.sent):
                    self._moved_s = self._now_s()
                if part is not None:
                    running.on_wire[part] = running.on_wire.get(part, 0) + count
                    if running.on_wire[part] <= 0:
                        del running.on_wire[part]

    @property
    def sent(self) -> int:
        """Bytes that went to the wire so far, repeated ones included."""
        return self._sent

    def end(
        self, job_id: int, *, registered: bool = False, adopted: bool = False, failed: bool = False
    ) -> None:
        """The worker let go of the job; one flag at most says that it came to an end."""
        with self._lock:
            running = self._running.pop(job_id, None)
            if registered or adopted or failed:
                self._advances.pop(job_id, None)
                size = running.size if running is not None else self._expected.get(job_id, 0)
                self._finished_files += 1
                self._finished += size
                self._registered += registered
                self._adopted += adopted
                self._failed += failed
                self._adopted_bytes += size if adopted else 0
                self._moved_s = self._now_s()

    def drop(self, job_id: int) -> None:
        """The job is no longer wanted (its file changed or went)."""
        with self._lock:
            self._running.pop(job_id, None)
            self._advances.pop(job_id, None)
            self._expected.pop(job_id, None)

    def snapshot(self) -> Snapshot:
        """The counters as they stand."""
        with self._lock:
            return Snapshot(
                running=tuple(
                    replace(running, on_wire=dict(running.on_wire))
                    for running in self._running.values()
                ),
                settling_files=self._settling,
                expected_files=len(self._expected),
                expected=sum(self._expected.values()),
                finished_files=self._finished_files,
                finished=self._finished,
                registered_files=self._registered,
                adopted_files=self._adopted,
                failed_files=self._failed,
                hashed=self._hashed,
                sent=self._sent,
                adopted=self._adopted_bytes,
                sent_rate=self._sending.rate(),
                hashed_rate=self._hashing.rate(),
                sent_beats=tuple(self._sending.figures()),
                idle_s=self._now_s() - self._moved_s,
                tallies=dict(self._tallies),
                walks=dict(self._walks),
            )


def _bit(number: int) -> int:
    return 1 << (number - 1)
