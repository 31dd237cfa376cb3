"""What the commands share that are about who syncd is: words, refusals, and what it was before."""

import asyncio
import os
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from syncd.cli.cloud_session import exit_of, reaching
from syncd.cloud.credentials import Credentials
from syncd.cloud.listing import PROOFS
from syncd.config.credential_files import Held, Stored
from syncd.config.loader import Loaded
from syncd.errors import JobError, SyncdError
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import Call, Kind, Profile, printable

T = TypeVar("T")

LOCK_PAUSE_S = 0.1


_TASKS: Mapping[Call, str] = MappingProxyType(
    {
        Call.LOGIN: "Signing in failed",
        Call.ME: "Reading the account failed",
        Call.PAIR_START: "The pairing could not be started",
        Call.PAIR_POLL: "The pairing could not be finished",
        Call.REFRESH: "Renewing the session failed",
        Call.REVOKE: "Revoking the device key failed",
    }
)

_CHECK_NETWORK = "Check the network, api.base_url and network.proxy, then run the command again."
_LATER = "Run the command again later."
_OVERLOADED = frozenset({Kind.SERVER_TRANSIENT, Kind.SERVER_FAULT, Kind.API_THROTTLED})


class Refused(SyncdError):
    """
    The cloud refused a command, or could not be reached.

    ``reason`` says why and what to do; the text also says what failed.
    """

    def __init__(self, error: JobError) -> None:
        said = str(error).removeprefix(f"{error.call}: ").rstrip(".: ")
        advice = error.advice or (_LATER if error.kind in _OVERLOADED else _CHECK_NETWORK)
        self.reason = f"{said}. {advice}"
        task = None if error.call is None else _TASKS.get(error.call)
        super().__init__(": ".join(filter(None, (task, self.reason))))
        self.error = error
        self.exit_code = int(exit_of(error))


class PersonNeeded(SyncdError):
    """A command cannot go on without what only a person can do or knows."""

    exit_code = 77


def asked(question: Coroutine[Any, Any, T]) -> T:
    """What the cloud says. Raises ``Refused`` for what it does not answer as it should."""
    try:
        return asyncio.run(question)
    except JobError as error:
        raise Refused(error) from None


async def profile(loaded: Loaded, credentials: Credentials | None = None) -> Profile:
    """Who stands behind *credentials*, or those that count now."""
    async with reaching(loaded, credentials=credentials) as api:
        return await api.me()


def name_of(who: Profile) -> str:
    """A user for people."""
    return who.name if who.email in (None, who.name) else f"{who.name} <{who.email}>"


def limit_text(loaded: Loaded) -> str:
    """``api.single_put_limit`` for people, in the unit that its documentation uses."""
    return f"{loaded.settings.api.single_put_limit / 1e6:.4g} MB"


def stored_of(loaded: Loaded) -> Stored:
    """Where this installation keeps what ``syncd login`` gets."""
    assert loaded.credential.stored is not None, "a loaded configuration has its place"
    return loaded.credential.stored


def locked(stored: Stored) -> Held:
    """The lock of *stored*; another process has it for the length of one request."""
    while (held := stored.try_lock()) is None:
        time.sleep(LOCK_PAUSE_S)
    return held


@dataclass(frozen=True, slots=True)
class Before:
    """What a state directory knows of the catalog that it is about: its team, some records."""

    state_dir: str
    team_id: str | None
    records: tuple[str, ...]

    @classmethod
    def of(cls, loaded: Loaded) -> "Before":
        """Read the store, if there is one. Raises ``StateError`` where it cannot be read."""
        state_dir = os.fspath(loaded.settings.state_dir)
        with reading(state_dir, Report) as report:
            if report is None:
                return cls(state_dir, None, ())
            return cls(state_dir, report.team_id(), tuple(report.newest_records(PROOFS)))

    @property
    def elsewhere(self) -> str:
        """What it means when none of them is shown."""
        return (
            f"None of what was registered last from {printable(self.state_dir)} is found there: it "
            "is in the catalog of another team, or was deleted."
        )
