"""The cloud, for commands that ask it something."""

import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from syncd.api import CloudApi
from syncd.auth import Credentials
from syncd.clock import SystemClock
from syncd.config import Loaded
from syncd.core.ending import Exit
from syncd.errors import JobError, NeedsOperator
from syncd.model import Call
from syncd.service import Doors, cloud_api_of, hosts_of


@asynccontextmanager
async def reaching(
    loaded: Loaded,
    *,
    credentials: Credentials | None = None,
    answered: Collection[Call] = (),
) -> AsyncIterator[CloudApi]:
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
    async with Doors().api(settings) as http:
        api = cloud_api_of(
            settings,
            http,
            credentials,
            hosts_of(settings),
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
