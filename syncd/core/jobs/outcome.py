"""How a worker let go of a job, and what others learn from it."""

from dataclasses import dataclass
from enum import StrEnum

from syncd.core.jobs.error_mapping import STORE_CALLS
from syncd.errors import JobError


class Side(StrEnum):
    """The two hosts that a job talks to."""

    API = "api"
    STORE = "store"

    @classmethod
    def of(cls, error: JobError) -> "Side":
        """Whom the request that met *error* went to."""
        return cls.STORE if error.call in STORE_CALLS else cls.API


class End(StrEnum):
    """How a worker let go of a job."""

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
    How it ended, and for a hold or a failure the error and the seconds until a probe.

    ``fuse``: when several files in a row fail for this reason, the server is at fault.
    """

    end: End
    error: JobError | None = None
    wait_s: float = 0.0
    fuse: bool = False
