"""Builds the cloud's parts from the settings: transport, then credentials, then client."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from syncd.clock import Clock
from syncd.cloud.client import CloudClient
from syncd.cloud.credentials import Credentials, Verify
from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.session_renewal import SessionRenewal
from syncd.cloud.sign_in import refresh
from syncd.cloud.transport import HttpClient, Transport
from syncd.config.credential_files import Stored
from syncd.config.settings import Settings
from syncd.types import Session


def network(settings: Settings) -> dict[str, str | None]:
    """Return the arguments of both HTTP clients."""
    bundle, proxy = settings.network.ca_bundle, settings.network.proxy
    return {
        "ca_bundle": None if bundle is None else os.fspath(bundle),
        "proxy": None if proxy is None else proxy.get_secret_value(),
    }


def host_policy(settings: Settings) -> HostPolicy:
    api, network = settings.api, settings.network
    return HostPolicy.of(api.base_url, network.storage_hosts, allow_http=network.allow_http)


def build_transport(settings: Settings, client: HttpClient, **more: Any) -> Transport:
    """Build the transport that sends through *client*; *more* are further arguments of ``Transport``."""
    return Transport(
        settings.api.base_url,
        client,
        team_id=settings.api.team_id,
        calls_per_s=settings.api.calls_per_s,
        calls_per_s_max=settings.api.calls_per_s_max,
        **more,
    )


def build_credentials(
    transport: Transport,
    source: Callable[[], str | Session | None],
    file: Stored | None,
    *,
    clock: Clock,
    verify: Verify | None = None,
) -> Credentials:
    """Build the credentials from *source*; *file* holds the session that is renewed."""
    renewal = None if file is None else SessionRenewal(file, partial(refresh, transport), clock)
    return Credentials(source, renewal=renewal, verify=verify, clock=clock)


def build_cloud_client(
    settings: Settings, transport: Transport, credentials: Credentials, *, clock: Clock
) -> CloudClient:
    hosts, paths = host_policy(settings), settings.api.multipart
    return CloudClient(transport, credentials, hosts=hosts, clock=clock, multipart=paths)
