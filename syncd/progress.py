"""
How far things are, counted while they happen and read by whoever draws.

The counters live in memory only; what is finished is in the store. Sending threads count into the
meter, a screen or the control surface takes snapshots of it. Every number is bytes unless its name
says otherwise.
"""

import threading
from dataclasses import dataclass, replace
from enum import StrEnum

from syncd.model import Job


def size_text(size: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


class Phase(StrEnum):
    """What a running job is doing."""

    STARTING = "starting"
    HASHING = "hashing"
    SENDING = "sending"
    FINISHING = "finishing"


@dataclass(frozen=True, slots=True)
class Running:
    """One job at work. ``sent`` counts bytes handed to the wire; a failed try takes them back."""

    job_id: int
    rel_path: str
    size: int
    phase: Phase = Phase.STARTING
    hashed: int = 0
    sent: int = 0
    parts_done: int = 0
    parts: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    Everything at one moment.

    ``expected`` and ``finished`` are bytes of files this run has to bring into the catalog and has
    brought there; ``hashed`` and ``sent`` count the run's work, repeated work included.
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


class Meter:
    """Thread-safe counters of one run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Running] = {}
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
            self._expected.setdefault(job.id, job.fingerprint.size)
            self._running[job.id] = Running(job.id, job.rel_path, job.fingerprint.size)

    def phase(self, job_id: int, phase: Phase) -> None:
        """The job went on to its next phase."""
        self._change(job_id, phase=phase)

    def parts(self, job_id: int, done: int, total: int, sent: int) -> None:
        """The job travels in parts, of which *done* (*sent* bytes in all) are already there."""
        self._change(job_id, parts_done=done, parts=total, sent=sent)

    def part_done(self, job_id: int) -> None:
        """One more part is acknowledged and committed."""
        with self._lock:
            running = self._running.get(job_id)
            if running is not None:
                self._running[job_id] = replace(running, parts_done=running.parts_done + 1)

    def add_hashed(self, job_id: int, count: int) -> None:
        """*count* bytes were read and hashed."""
        with self._lock:
            self._hashed += count
            running = self._running.get(job_id)
            if running is not None:
                self._running[job_id] = replace(running, hashed=running.hashed + count)

    def add_sent(self, job_id: int, count: int) -> None:
        """*count* bytes went to the wire; negative: a try failed and they do not count."""
        with self._lock:
            self._sent += max(count, 0)
            running = self._running.get(job_id)
            if running is not None:
                self._running[job_id] = replace(running, sent=running.sent + count)

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
                size = running.size if running is not None else self._expected.get(job_id, 0)
                self._finished_files += 1
                self._finished += size
                self._registered += registered
                self._adopted += adopted
                self._failed += failed

    def drop(self, job_id: int) -> None:
        """The job is no longer wanted (its file changed or went)."""
        with self._lock:
            self._running.pop(job_id, None)
            self._expected.pop(job_id, None)

    def snapshot(self) -> Snapshot:
        """The counters as they stand."""
        with self._lock:
            return Snapshot(
                running=tuple(self._running.values()),
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
            )

    def _change(self, job_id: int, **values: object) -> None:
        with self._lock:
            running = self._running.get(job_id)
            if running is not None:
                self._running[job_id] = replace(running, **values)  # type: ignore[arg-type]
