"""The cloud connection of commands, and their error texts."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from syncd.clock import SystemClock
from syncd.cloud.capabilities import ServerCapabilities
from syncd.cloud.client import CloudClient
from syncd.cloud.credentials import Credentials
from syncd.cloud.factory import build_cloud_client, build_credentials, build_transport, network
from syncd.cloud.transport import Transport, build_client
from syncd.config.loader import Loaded
from syncd.core.exit_codes import Exit
from syncd.errors import JobError, NeedsOperator, SyncdError
from syncd.types import Call, Kind, Profile

T = TypeVar("T")

_TASKS = {
    Call.LOGIN: "Signing in failed",
    Call.ME: "Reading the account failed",
    Call.PAIR_START: "The pairing could not be started",
    Call.PAIR_POLL: "The pairing could not be finished",
    Call.REFRESH: "Renewing the session failed",
    Call.REVOKE: "Revoking the device key failed",
}

_OVERLOADED = frozenset({Kind.SERVER_TRANSIENT, Kind.SERVER_FAULT, Kind.API_THROTTLED})


@asynccontextmanager
async def open_transport(
    loaded: Loaded, *, answered: Collection[Call] = ()
) -> AsyncIterator[Transport]:
    """
    Open a transport to the configured cloud.

    Args:
        answered: Calls that have answered on this server in the past.

    Raises:
        ConfigError: The CA bundle or the proxy cannot be used.
    """
    clock, capabilities = SystemClock(), ServerCapabilities(answered)
    async with build_client(**network(loaded.settings)) as http:
        yield build_transport(
            loaded.settings, http, clock=clock, jitter=random.random, capabilities=capabilities
        )


@asynccontextmanager
async def reaching(
    loaded: Loaded, *, credentials: Credentials | None = None, answered: Collection[Call] = ()
) -> AsyncIterator[CloudClient]:
    """Open a client with *credentials* or the configured ones. Raises what ``open_transport`` raises."""
    settings, clock, source = loaded.settings, SystemClock(), loaded.credential
    async with open_transport(loaded, answered=answered) as transport:
        used = credentials or build_credentials(
            transport, source.current, source.stored, clock=clock
        )
        try:
            yield build_cloud_client(settings, transport, used, clock=clock)
        finally:
            await used.close()


def exit_of(error: JobError) -> Exit:
    """Return the exit code of a command that the cloud refused."""
    return Exit.OPERATOR if isinstance(error, NeedsOperator) else Exit.LATER


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
