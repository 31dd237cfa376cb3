"""What the commands share that are about who syncd is: words, refusals, and what it was before."""

import asyncio
import os
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from syncd.auth import Credentials
from syncd.catalog import PROOFS
from syncd.cli.reaching import exit_of, reaching
from syncd.config import Loaded, Stored
from syncd.config.stored import Held
from syncd.errors import JobError, SyncdError
from syncd.model import Profile, printable
from syncd.store import Report, reading

T = TypeVar("T")

LOCK_PAUSE_S = 0.1


class Refused(SyncdError):
    """The cloud turned a command away, or was not there."""

    def __init__(self, error: JobError) -> None:
        super().__init__(" ".join(filter(None, (f"{error}.", error.advice))))
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
