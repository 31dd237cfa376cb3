"""The cloud connection of commands, and their error texts."""

import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from syncd.clock import SystemClock
from syncd.cloud.capabilities import ServerCapabilities
from syncd.cloud.client import CloudClient
from syncd.cloud.credentials import Credentials
from syncd.cloud.factory import build_cloud_client, build_credentials, build_transport, network
from syncd.cloud.transport import Transport, build_client
from syncd.config.loader import Loaded
from syncd.core.exit_codes import Exit
from syncd.errors import JobError, NeedsOperator
from syncd.types import Call


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
