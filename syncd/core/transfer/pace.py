"""When a body moves too slowly to be worth its slot: a link that trickles never times out by itself."""

from dataclasses import dataclass

from syncd.core.jobs.error_mapping import to_error
from syncd.types import Kind

WINDOW_S = 300.0
SLOWEST_BYTES_PER_S = 1024


@dataclass(slots=True)
class Pace:
    """
    The bytes of one body over time.

    Args:
        since_s: When the current window began, on any clock that does not go back.
    """

    since_s: float
    moved_bytes: int = 0
    stalled: bool = False

    def waited(self, seconds: float) -> None:
        """The body was held back by us for *seconds*, which are nobody's fault."""
        self.since_s += seconds

    def moved(self, count: int, now_s: float) -> None:
        """
        Take note of *count* more bytes.

        Raises:
            Retryable: Fewer than 1 KiB/s moved over the last five minutes.
        """
        self.moved_bytes += count
        passed_s = now_s - self.since_s
        if passed_s < WINDOW_S:
            return
        if self.moved_bytes < SLOWEST_BYTES_PER_S * passed_s:
            self.stalled = True
            raise to_error(
                Kind.NETWORK,
                f"only {self.moved_bytes} bytes went out in {passed_s:.0f} s",
                unclear=True,
                timed_out=True,
            )
        self.since_s, self.moved_bytes = now_s, 0
