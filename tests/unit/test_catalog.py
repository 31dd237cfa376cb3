"""What the catalog's listing is asked, against a scripted server on a real socket."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from syncd import api
from syncd.api import CloudApi
from syncd.auth import Credentials
from syncd.catalog import Catalog
from syncd.core.answers import HostPolicy
from syncd.errors import JobError
from syncd.lanes import Lanes
from syncd.model import Fingerprint, FoundFile, Plan, Target
from syncd.store import Store, Wanted
from tests.fakes import LOST, FakeClock, Reply, ScriptedServer, reply

PATH, OTHER = "models/loras/a.pt", "models/loras/b.pt"
SHA = "ab" * 32
NO_LISTING = reply(405, '{"error_message": "no"}')


def listing(*records: dict[str, Any]) -> Reply:
    meta = {"current_page": 1, "per_page": 100, "total_count": len(records)}
    return reply(200, json.dumps({"model_list": records, "page_meta": meta}))


def record(number: int = 1, path: str = PATH, **members: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "model_path": path, "model_status": "active", **members}


@asynccontextmanager
async def catalog(folder: Path, server: ScriptedServer) -> AsyncIterator[tuple[Catalog, Store]]:
    """A catalog that asks *server*, and the store that it remembers with."""
    url, clock = f"{server.url}/api/v1", FakeClock()
    lanes, store = Lanes(files=1, slots=1), Store(str(folder))
    async with api.build_client() as client:
        cloud = CloudApi(
            base_url=url,
            client=client,
            credentials=Credentials(lambda: "dk-x"),
            clock=clock,
            jitter=lambda: 0.0,
            hosts=HostPolicy.of(url, (), allow_http=False),
            team_id=None,
        )
        yield Catalog(api=cloud, store=store, lanes=lanes, clock=clock), store
    store.close()
    lanes.close()


def register(store: Store, size: int) -> None:
    """This machine has registered a file of *size* bytes."""
    root_id = store.files.root_id("/models")
    found = FoundFile(root_id, "loras/own.pt", Fingerprint(1, 2, size, 3, 4), size)
    target = Target("models/loras/own.pt", "loras", "own.pt", "own")
    store.files.admit([Wanted(found, target, target.model_path)], 1)
    job = store.jobs.claim("test", 1, 60_000)
    assert job is not None
    job = store.jobs.note_plan(job, Plan(size, SHA, b""), 1)
    store.jobs.finish(job, "r-own", 1, adopted=False)


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
async def test_a_record_of_that_size_at_that_path_may_hold_the_file(
    listed: dict[str, Any], asked: tuple[str, int], may: bool, tmp_path: Path
) -> None:
    with ScriptedServer([listing(listed)]) as server:
        async with catalog(tmp_path, server) as (it, _):
            assert await it.may_hold(*asked) is may


async def test_a_record_of_ours_of_that_size_may_hold_it_anywhere_without_a_call(
    tmp_path: Path,
) -> None:
    with ScriptedServer([NO_LISTING]) as server:
        async with catalog(tmp_path, server) as (it, store):
            register(store, 7)

            assert await it.may_hold(PATH, 7)
            assert server.seen == []
            assert not await it.may_hold(PATH, 8)


async def test_whether_a_record_may_hold_it_is_not_guessed_while_the_cloud_is_away(
    tmp_path: Path,
) -> None:
    with ScriptedServer([LOST] * 12) as server:
        async with catalog(tmp_path, server) as (it, _):
            with pytest.raises(JobError):
                await it.may_hold(PATH, 7)
