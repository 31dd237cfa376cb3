"""The cloud's API as the settings describe it: for the service, and for commands that only ask."""

import os
from collections.abc import Callable, Collection
from typing import Any

from syncd.clock import Clock
from syncd.cloud import client as cloud_api
from syncd.cloud.credentials import Credentials
from syncd.cloud.validation import HostPolicy
from syncd.config.settings import Settings
from syncd.types import Call


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
    **watched: Any,
) -> cloud_api.CloudClient:
    """The API behind *client*; see ``CloudClient`` for the other arguments."""
    return cloud_api.CloudClient(
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
        **watched,
    )
