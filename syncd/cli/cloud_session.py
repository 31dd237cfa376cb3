"""The cloud, for commands that ask it something."""

import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from syncd.clock import SystemClock
from syncd.cloud.client import CloudClient, build_client
from syncd.cloud.credentials import Credentials
from syncd.cloud.factory import connect, network
from syncd.config.loader import Loaded
from syncd.core.exit_codes import Exit
from syncd.errors import JobError, NeedsOperator
from syncd.types import Call


@asynccontextmanager
async def reaching(
    loaded: Loaded,
    *,
    credentials: Credentials | None = None,
    answered: Collection[Call] = (),
) -> AsyncIterator[CloudClient]:
    """
    The configured cloud, with the configured credential.

    Args:
        credentials: Others than those that count now.
        answered: Calls that have answered on this server in the past.

    Raises:
        ConfigError: The credential, the bundle or the proxy cannot be used.
    """
    settings = loaded.settings
    if credentials is None:
        credentials = Credentials(loaded.credential.current, keeper=loaded.credential.stored)
    async with build_client(**network(settings)) as http:
        api = connect(
            settings,
            http,
            credentials,
            clock=SystemClock(),
            jitter=random.random,
            answered=answered,
        )
        credentials.renew = api.refresh
        try:
            yield api
        finally:
            await credentials.settled()


def exit_of(error: JobError) -> Exit:
    """What a command ends with that the cloud turned away."""
    return Exit.PERSON if isinstance(error, NeedsOperator) else Exit.LATER
