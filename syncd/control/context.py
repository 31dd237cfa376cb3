"""What control knows of the service, and how it refuses a request."""

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
    What control may ask of a running service, and tell it.

    Args:
        started_at: Unix milliseconds.
        settling: The files that still change; read it without an await.
        hint: Takes where to look.
        state_hold: The hold of a full state disk, which cannot be stored.
        unready: Why the service cannot do its work yet, or not any more.
        watch_mode: One of ``metrics.WATCH_MODES``.
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
    settling: Callable[[], Iterator[Settling]]
    hint: Callable[[Hint], None]
    state_hold: Callable[[], HoldRow | None]
    unready: Callable[[], list[str]]
    watch_mode: Callable[[], str]


class Refusal(Exception):
    """A request that is not carried out: what is wrong with it, and what to do."""

    def __init__(self, status: int, error: str, advice: str) -> None:
        super().__init__(error)
        self.status = status
        self.advice = advice


def bad(error: str) -> Refusal:
    """A request that is not understood."""
    return Refusal(HTTPStatus.BAD_REQUEST, error, "docs/control.md says what can be asked for.")
