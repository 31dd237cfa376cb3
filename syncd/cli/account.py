"""What ``login``, ``logout`` and ``whoami`` share: cloud errors, texts, the team of the records."""

import asyncio
import os
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from syncd.cli.cloud_session import exit_of, reaching
from syncd.cloud.credentials import Credentials
from syncd.cloud.listing import PROOFS
from syncd.config.credential_files import Stored
from syncd.config.loader import Loaded
from syncd.errors import JobError, SyncdError
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import Call, Kind, Profile, printable

T = TypeVar("T")

LOCK_PAUSE_S = 0.1


_TASKS = {
    Call.LOGIN: "Signing in failed",
    Call.ME: "Reading the account failed",
    Call.PAIR_START: "The pairing could not be started",
    Call.PAIR_POLL: "The pairing could not be finished",
    Call.REFRESH: "Renewing the session failed",
    Call.REVOKE: "Revoking the device key failed",
}

_OVERLOADED = frozenset({Kind.SERVER_TRANSIENT, Kind.SERVER_FAULT, Kind.API_THROTTLED})


class Refused(SyncdError):
    """The cloud refused a command, or could not be reached; ``reason`` includes the advice."""

    def __init__(self, error: JobError) -> None:
        text = str(error).removeprefix(f"{error.call}: ").rstrip(".: ")
        advice = "Check the network, api.base_url and network.proxy, then run the command again."
        if error.kind in _OVERLOADED:
            advice = "Run the command again later."
        self.reason = f"{text}. {error.advice or advice}"
        task = None if error.call is None else _TASKS.get(error.call)
        super().__init__(": ".join(filter(None, (task, self.reason))))
        self.error = error
        self.exit_code = int(exit_of(error))


class NotPossible(SyncdError):
    """The command cannot continue; the text says what the user must do."""

    exit_code = 77


def asked(question: Coroutine[Any, Any, T]) -> T:
    """Run *question*. Raises ``Refused`` for an error of the cloud."""
    try:
        return asyncio.run(question)
    except JobError as error:
        raise Refused(error) from None


async def profile(loaded: Loaded, credentials: Credentials | None = None) -> Profile:
    """Return the account of *credentials*, or of the configured ones."""
    async with reaching(loaded, credentials=credentials) as api:
        return await api.me()


def name_of(who: Profile) -> str:
    return who.name if who.email in (None, who.name) else f"{who.name} <{who.email}>"


def limit_text(loaded: Loaded) -> str:
    """Format ``api.single_put_limit`` in the unit that its documentation uses."""
    return f"{loaded.settings.api.single_put_limit / 1e6:.4g} MB"


def stored_of(loaded: Loaded) -> Stored:
    """Return where ``syncd login`` stores credentials."""
    assert loaded.credential.stored is not None, "set by the loader"
    return loaded.credential.stored


def locked(stored: Stored) -> IO[bytes]:
    """Wait for the lock of *stored*, which is held for one request at a time."""
    while (held := stored.try_lock()) is None:
        time.sleep(LOCK_PAUSE_S)
    return held


@dataclass(frozen=True, slots=True)
class Before:
    """The team and the newest records of a state directory."""

    state_dir: str
    team_id: str | None
    records: tuple[str, ...]

    @classmethod
    def of(cls, loaded: Loaded) -> "Before":
        """Read the store, if there is one. Raises ``StateError`` if it cannot be read."""
        state_dir = os.fspath(loaded.settings.state_dir)
        with reading(state_dir, Report) as report:
            if report is None:
                return cls(state_dir, None, ())
            cloud = report.cloud()
            return cls(state_dir, cloud and cloud[1], tuple(report.newest_records(PROOFS)))

    @property
    def elsewhere(self) -> str:
        """The error text if none of the records is in the catalog of a credential."""
        return (
            f"None of what was registered last from {printable(self.state_dir)} is found there: it "
            "is in the catalog of another team, or was deleted."
        )
