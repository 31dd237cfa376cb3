"""Detect a body that moves too slowly; a trickling connection never times out by itself."""

from dataclasses import dataclass

from syncd.core.jobs.error_mapping import to_error
from syncd.types import Kind

WINDOW_S = 300.0
SLOWEST_BYTES_PER_S = 1024


@dataclass(slots=True)
class StallDetector:
    """The progress of one body; ``since_s`` is the start of the current window."""

    since_s: float
    sent: int = 0
    stalled: bool = False

    def exclude(self, seconds: float) -> None:
        """Do not count *seconds* for which syncd itself held the body back."""
        self.since_s += seconds

    def add(self, count: int, now_s: float) -> None:
        """Count *count* more bytes. Raises Retryable below 1 KiB/s over the last five minutes."""
        self.sent += count
        passed_s = now_s - self.since_s
        if passed_s < WINDOW_S:
            return
        if self.sent < SLOWEST_BYTES_PER_S * passed_s:
            self.stalled = True
            raise to_error(
                Kind.NETWORK,
                f"only {self.sent} bytes were sent in {passed_s:.0f} s",
                unclear=True,
                timed_out=True,
            )
        self.since_s, self.sent = now_s, 0
