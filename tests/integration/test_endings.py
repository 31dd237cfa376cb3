"""How a service comes to its end, in this process: with its real threads, its store, and its doors."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
from pydantic import SecretStr

from syncd.clock import SystemClock
from syncd.config.credential import CredentialSource
from syncd.config.reload import LiveSettings
from syncd.config.settings import Settings
from syncd.control.context import ControlContext
from syncd.core.jobs.retry_policy import LATEST_S
from syncd.daemon import service as service_room
from syncd.daemon.components import Factories, Resources, build_components, open_store
from syncd.daemon.service import Service
from syncd.executors import Executors
from syncd.fs.watcher import Watcher
from syncd.ingest.comparer import ScanStopped
from syncd.monitoring.progress import Meter
from syncd.store.files import RootRow
from tests.weights import write_safetensors

P = ParamSpec("P")
T = TypeVar("T")

SOURCE = CredentialSource(SecretStr("dk-" + 40 * "0"), "the test", (), None)


class NoRoom(Exception):
    """What a piece says that cannot start."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a tree with one file, and of a cloud that nobody asks for anything."""
    write_safetensors(tmp_path / "models/loras/x.safetensors", 200)
    api: Any = {"base_url": "http://127.0.0.1:9"}
    return Settings(models_dir=tmp_path / "models", state_dir=tmp_path / "state", api=api)


async def test_the_store_is_not_closed_while_the_scan_thread_reads_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_room, "LAST_LOOK_S", 60.0)
    lanes, ended = Executors(files=1, slots=1), threading.Event()
    reads: list[asyncio.Future[RootRow]] = []

    @asynccontextmanager
    async def stopped_while_it_reads(_: Settings, desk: ControlContext) -> AsyncIterator[None]:
        def read() -> RootRow:
            ended.wait(0.5)  # as long as a slow disk takes, or until nobody cared
            return desk.store.seen.root(1)

        reads.append(asyncio.ensure_future(lanes.scan(read)))
        service.stop()
        yield

    factories = Factories(lanes=lambda *_: lanes, control=stopped_while_it_reads)
    service = Service(settings, SOURCE, meter=Meter(), once=True, factories=factories)
    await service.run()
    ended.set()

    assert not (await reads[0]).scanned


class Listed(Executors):
    """Lanes that write down what the scan thread is asked to do."""

    def __init__(self) -> None:
        super().__init__(files=1, slots=1)
        self.names: list[str] = []

    async def scan(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.names.append(getattr(function, "__name__", ""))
        return await super().scan(function, *args, **kwargs)


async def test_a_daemon_whose_disk_hangs_can_be_stopped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_room, "LAST_LOOK_S", 0.2)
    lanes, asked, answers = Listed(), threading.Event(), threading.Event()
    desks, watchers = list[ControlContext](), list[Watcher]()
    hanging: list[asyncio.Future[bool]] = []

    def ask_the_disk() -> bool:
        asked.set()
        return answers.wait()

    async def hang(desk: ControlContext) -> None:
        while desk.unready():
            await asyncio.sleep(0.01)
        hanging.append(asyncio.ensure_future(lanes.scan(ask_the_disk)))
        await asyncio.to_thread(asked.wait)
        service.stop()

    @asynccontextmanager
    async def hanging_soon(_: Settings, desk: ControlContext) -> AsyncIterator[None]:
        desks.append(desk)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hang(desk))
            yield

    def watching(*what: Any) -> Watcher:
        watchers.append(Factories().watcher(*what))
        return watchers[0]

    factories = Factories(lanes=lambda *_: lanes, watcher=watching, control=hanging_soon)
    service = Service(settings, SOURCE, meter=Meter(), factories=factories)
    try:
        async with asyncio.timeout(60):
            await service.run()
    finally:
        answers.set()

    assert await hanging[0]
    after = lanes.names[lanes.names.index("ask_the_disk") + 1 :]
    assert "stop" in after
    assert "stop_reading" not in after, "who hangs is waited for once"
    assert desks[0].store.seen.root(1), "it was closed under whoever hangs"
    watchers[0].stop()
    desks[0].store.stop_reading()
    desks[0].store.close()


@pytest.mark.parametrize("fails", [True, False])
async def test_what_is_assembled_walks_no_more_at_its_end(settings: Settings, fails: bool) -> None:
    store, lanes = open_store(settings), Executors(files=1, slots=1)
    resources = Resources(
        LiveSettings(settings),
        SOURCE,
        store,
        lanes,
        SystemClock(),
        lambda: 0.5,
        Meter(),
        LATEST_S,
        once=True,
        on_clock_step=lambda: None,
        state_hold=lambda: None,
        unready=list,
        watch_mode=lambda: "scans",
    )
    with pytest.raises(NoRoom) if fails else nullcontext():
        async with build_components(resources, Factories()) as components:
            if fails:
                raise NoRoom

    with pytest.raises(ScanStopped):
        await components.ingester.scan(components.roots[1])
    lanes.close()
    store.close()
