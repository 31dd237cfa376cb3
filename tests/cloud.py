"""Builds the cloud client as tests and benchmarks use it."""

from collections.abc import Callable
from typing import Any

from syncd.clock import Clock
from syncd.cloud.client import CloudClient
from syncd.cloud.credentials import Credentials
from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.transport import HttpClient, Transport


def cloud_client(
    base_url: str,
    client: HttpClient,
    *,
    source: Callable[[], str | None] = lambda: "dk-0123456789",
    clock: Clock,
    jitter: Callable[[], float] = lambda: 1.0,
    **more: Any,
) -> CloudClient:
    """A client of the API at *base_url*; *more* are further arguments of its transport."""
    transport = Transport(base_url, client, clock=clock, jitter=jitter, **more)
    hosts = HostPolicy.of(base_url, (), allow_http=False)
    return CloudClient(transport, Credentials(source), hosts=hosts, clock=clock)
