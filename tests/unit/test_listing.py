"""What the catalog's listing is asked, against a scripted server on a real socket."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from syncd.cloud.listing import Catalog
from syncd.cloud.transport import build_client
from syncd.errors import JobError
from tests.cloud import cloud_client
from tests.fakes import LOST, FakeClock, Reply, ScriptedServer, reply

PATH, OTHER = "models/loras/a.pt", "models/loras/b.pt"


def listing(*records: dict[str, Any]) -> Reply:
    meta = {"current_page": 1, "per_page": 100, "total_count": len(records)}
    return reply(200, json.dumps({"model_list": records, "page_meta": meta}))


def record(number: int = 1, path: str = PATH, **members: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "model_path": path, "model_status": "active", **members}


@asynccontextmanager
async def catalog(server: ScriptedServer) -> AsyncIterator[Catalog]:
    """A catalog that asks *server*."""
    url, clock = f"{server.url}/api/v1", FakeClock()
    async with build_client() as client:
        yield Catalog(cloud_client(url, client, clock=clock), clock)


@pytest.mark.parametrize(
    ("listed", "asked", "may"),
    [
        (record(file_size=7), (PATH, 7), True),
        (record(file_size=8), (PATH, 7), False),
        (record(file_size=7, path=OTHER), (PATH, 7), False),
        (record(), (PATH, 7), True),
    ],
    ids=["its size", "another size", "another path", "no size"],
)
async def test_may_hold_compares_path_and_size(
    listed: dict[str, Any], asked: tuple[str, int], may: bool
) -> None:
    with ScriptedServer([listing(listed)]) as server:
        async with catalog(server) as it:
            assert await it.may_hold(*asked) is may


async def test_may_hold_raises_while_the_cloud_is_unreachable() -> None:
    with ScriptedServer([LOST] * 12) as server:
        async with catalog(server) as it:
            with pytest.raises(JobError):
                await it.may_hold(PATH, 7)
