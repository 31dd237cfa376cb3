"""The cloud's API as the settings describe it: for the service, and for commands that only ask."""

import os
import random
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

from syncd import api as cloud_api
from syncd.auth import Credentials
from syncd.clock import Clock, SystemClock
from syncd.config import CredentialSource, Settings
from syncd.core.answers import HostPolicy
from syncd.model import Call


def network(settings: Settings) -> dict[str, str | None]:
    """What both HTTP clients are built with."""
    bundle, proxy = settings.network.ca_bundle, settings.network.proxy
    return {
        "ca_bundle": None if bundle is None else os.fspath(bundle),
        "proxy": None if proxy is None else proxy.get_secret_value(),
    }


def host_policy(settings: Settings) -> HostPolicy:
    """Which hosts may receive model bytes."""
    return HostPolicy.of(
        settings.api.base_url,
        settings.network.storage_hosts,
        allow_http=settings.network.allow_http,
    )


def connect(
    settings: Settings,
    client: cloud_api.Client,
    credentials: Credentials,
    *,
    clock: Clock,
    jitter: Callable[[], float],
    answered: Collection[Call] = (),
    on_answered: Callable[[Call], None] = lambda call: None,
) -> cloud_api.CloudApi:
    """The API behind *client*; see ``CloudApi`` for *answered*."""
    return cloud_api.CloudApi(
        base_url=settings.api.base_url,
        client=client,
        credentials=credentials,
        team_id=settings.api.team_id,
        clock=clock,
        jitter=jitter,
        hosts=host_policy(settings),
        multipart=cloud_api.MultipartPaths(
            sign_part=settings.api.multipart.sign_part_path,
            complete=settings.api.multipart.complete_path,
            abort=settings.api.multipart.abort_path,
        ),
        calls_per_s=settings.api.calls_per_s,
        answered=answered,
        on_answered=on_answered,
    )


@asynccontextmanager
async def asking(settings: Settings, source: CredentialSource) -> AsyncIterator[cloud_api.CloudApi]:
    """The API for a command that reads and remembers nothing, beside a running syncd or without one."""
    async with cloud_api.build_client(**network(settings)) as client:
        yield connect(
            settings,
            client,
            Credentials(source.token),
            clock=SystemClock(),
            jitter=random.random,
        )
