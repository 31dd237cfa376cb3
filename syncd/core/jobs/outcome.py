"""How a worker ended its run of a job."""

from dataclasses import dataclass
from enum import StrEnum

from syncd.core.jobs.error_mapping import STORE_CALLS
from syncd.errors import JobError


class Side(StrEnum):
    API = "api"
    STORE = "store"

    @classmethod
    def of(cls, error: JobError) -> "Side":
        return cls.STORE if error.call in STORE_CALLS else cls.API


class End(StrEnum):
    REGISTERED = "registered"
    ADOPTED = "adopted"
    FAILED = "failed"
    LATER = "later"
    HELD = "held"
    NEEDS_SIGN_IN = "needs_sign_in"
    SUPERSEDED = "superseded"
    RELEASED = "released"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How a run ended; for a hold or a failure also the error and the seconds until the next probe.

    ``fuse``: if several files in a row end like this, the server is considered faulty.
    """

    end: End
    error: JobError | None = None
    wait_s: float = 0.0
    fuse: bool = False
