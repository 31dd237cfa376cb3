"""What the HTTP API uses of the service, and how it refuses a request."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from syncd.clock import Clock
from syncd.cloud.credentials import Credentials
from syncd.executors import Executors
from syncd.monitoring.progress import Meter, Settling
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.types import Hint
from syncd.upload.dispatcher import Dispatcher
from syncd.upload.limits import Bandwidth
from syncd.upload.transfer import Transfer


@dataclass(frozen=True, slots=True)
class ControlContext:
    """
    What the HTTP API uses of a running service.

    Args:
        started_at: Unix milliseconds.
        calls_per_s: The current pace of API calls, or None.
        settling: The files that still change; iterate without an await.
        hint: Queues a path to examine.
        state_hold: The hold of a full state disk, which cannot be stored.
        unready: Why the service is not ready.
    """

    state_dir: str
    started_at: int
    store: Store
    lanes: Executors
    clock: Clock
    meter: Meter
    credentials: Credentials
    dispatcher: Dispatcher
    transfer: Transfer
    bandwidth: Bandwidth
    calls_per_s: Callable[[], float | None]
    settling: Callable[[], Iterator[Settling]]
    hint: Callable[[Hint], None]
    state_hold: Callable[[], HoldRow | None]
    unready: Callable[[], list[str]]
    watch_mode: Callable[[], str]


class Refusal(Exception):
    def __init__(self, status: int, error: str, advice: str) -> None:
        super().__init__(error)
        self.status = status
        self.advice = advice


def bad(error: str) -> Refusal:
    """A refusal of a malformed request."""
    return Refusal(HTTPStatus.BAD_REQUEST, error, "docs/control.md lists the requests.")
