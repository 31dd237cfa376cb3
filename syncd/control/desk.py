"""What control knows of the service, and how it refuses a request."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from syncd.auth import Credentials
from syncd.bandwidth import Bandwidth
from syncd.clock import Clock
from syncd.dispatch import Dispatcher
from syncd.lanes import Lanes
from syncd.model import Hint
from syncd.progress import Meter, Settling
from syncd.store import HoldRow, Store
from syncd.transfer import Transfer


@dataclass(frozen=True, slots=True)
class Desk:
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
    lanes: Lanes
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
