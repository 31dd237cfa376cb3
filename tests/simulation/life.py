"""One life of the daemon: the real service between its doors, until it ends or is killed."""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, ParamSpec, TypeVar

from pydantic import SecretStr

from syncd.cloud.object_store import HttpClient as StoreClient
from syncd.cloud.transport import HttpClient as ApiClient
from syncd.config.credential import CredentialSource
from syncd.config.settings import Settings
from syncd.daemon.components import Factories
from syncd.daemon.service import Service
from syncd.disk_full import DiskFullRetry
from syncd.executors import Executors
from syncd.fs.watcher import Watcher
from syncd.monitoring.progress import Meter
from syncd.types import Hint, HintKind
from tests.simulation.far_side import ApiWire, FarSide, StoreWire, Weather
from tests.simulation.loop import LIFE, Tasks, VirtualClock

P = ParamSpec("P")
T = TypeVar("T")


class Killed(asyncio.CancelledError):
    """Raised in a program that was killed: its calls have no effect."""


class Life:
    """
    A process from its start to its end.

    Args:
        die_at: The step that it does not survive; None: it lives until it ends.
        lost: Takes the numbers of calls whose answer the program never saw.
        disturb: Called with a path while its bytes are being read.
        jitter: Draws the jitter of waits; None: from *draw*.
    """

    def __init__(
        self,
        settings: Settings,
        source: CredentialSource,
        far: FarSide,
        weather: Weather,
        clock: VirtualClock,
        draw: random.Random,
        *,
        die_at: int | None = None,
        lost: set[int] | None = None,
        disturb: Callable[[str], None] = lambda path: None,
        once: bool = False,
        jitter: Callable[[], float] | None = None,
    ) -> None:
        self.dead = False
        self.watcher: FakeWatcher | None = None
        self.steps = 0
        self.die_at = die_at
        self._tasks: Tasks = {}
        self._main: asyncio.Task[int] | None = None
        self._draw = draw
        lost = set() if lost is None else lost
        wire = StoreWire(far, weather, self, lost)

        def listen(
            _: Settings, roots: Mapping[int, str], on_hint: Callable[[Hint], None]
        ) -> Watcher:
            self.watcher = FakeWatcher(roots, on_hint)
            return self.watcher

        self.service = Service(
            settings,
            source,
            meter=_Scales(self, disturb),
            once=once,
            clock=clock,
            jitter=jitter or draw.random,
            factories=Factories(
                lanes=lambda _, disk_full: _Inline(self, wire.took_s, disk_full),
                api=lambda _: ApiClient(transport=ApiWire(far, weather, self, lost)),
                objects=lambda _: StoreClient(transport=wire),
                watcher=listen,
                control=lambda *_: nullcontext(),
            ),
        )

    async def live(self) -> int | None:
        """Run to the end; the exit code, or None after a death."""
        LIFE.set(self._tasks)
        self._main = asyncio.create_task(self.service.run())
        LIFE.set(None)
        try:
            await asyncio.wait({self._main})
        finally:
            code = await self._bury()
        return code

    def hint(self, path: str, kind: HintKind) -> None:
        """Report an event of the kernel, if the daemon watches."""
        if self.watcher is not None and self.watcher.alive():
            self.watcher.emit(Hint(self.watcher.root_id, path, kind))

    def step(self) -> None:
        """
        Count a step.

        Raises:
            Killed: It was the last one, or the program is dead already.
        """
        self.steps += 1
        if self.steps == self.die_at:
            self.kill()
        if self.dead:
            raise Killed

    def kill(self) -> None:
        """No step more."""
        self.dead = True
        if self._main is not None:
            asyncio.get_running_loop().call_soon(self._main.cancel)

    def seldom(self, chance: float) -> bool:
        """True once in a while."""
        return self._draw.random() < chance

    def pause_s(self) -> float:
        """Seconds that a thread takes for something small."""
        return self._draw.uniform(0.0001, 0.01)

    async def _bury(self) -> int | None:
        assert self._main is not None
        while self._tasks:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.wait(tuple(self._tasks))
        return None if self.dead else self._main.result()


class _Inline(Executors):
    """
    Threads that do everything at once and then take their time.

    Args:
        took_s: Seconds that went by on the wire since the last question.
    """

    def __init__(self, life: Life, took_s: Callable[[], float], disk_full: DiskFullRetry) -> None:
        self._disk_full = disk_full
        self._life = life
        self._took_s = took_s

    async def _commit(self, call: "partial[T]") -> T:
        if call.func.__name__ == "close":  # the kernel does it, too, for the dead
            return call()
        self._life.step()
        try:
            return call()
        finally:
            self._life.step()
            await asyncio.sleep(self._life.pause_s() if self._life.seldom(0.1) else 0)

    def close(self) -> None:
        """No thread has to end."""

    async def _inline(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if getattr(function, "__name__", "") == "stop_reading":  # as the kernel does for the dead
            return function(*args, **kwargs)
        self._life.step()
        try:
            return function(*args, **kwargs)
        finally:
            self._life.step()
            await asyncio.sleep(self._life.pause_s() + self._took_s())

    hash = send = scan = _inline


class _Scales(Meter):
    """
    Counts bytes like any meter. Bytes that are counted are bytes being read: the moment for
    another program to write, or for the power to fail.
    """

    CHANCE = 0.01

    def __init__(self, life: Life, disturb: Callable[[str], None]) -> None:
        super().__init__()
        self._life = life
        self._disturb = disturb

    def add_hashed(self, job_id: int, count: int) -> None:
        super().add_hashed(job_id, count)
        self._meanwhile(job_id)

    def add_sent(self, job_id: int, count: int) -> None:
        super().add_sent(job_id, count)
        if count > 0:
            self._meanwhile(job_id)

    def _meanwhile(self, job_id: int) -> None:
        self._life.step()
        if self._life.seldom(self.CHANCE):
            for running in self.snapshot().running:
                if running.job_id == job_id:
                    self._disturb(running.rel_path)


class FakeWatcher(Watcher):
    """A watcher that hears what the simulation tells it."""

    def __init__(self, roots: Mapping[int, str], on_hint: Callable[[Hint], None]) -> None:
        (self.root_id,) = roots
        self.emit = on_hint
        self._open = False

    @property
    def degraded(self) -> str | None:
        return None

    def start(self) -> None:
        self._open = True

    def stop(self) -> None:
        self._open = False

    def alive(self) -> bool:
        return self._open

    def moved(self) -> bool:
        return False


def source_of(token: str, team_id: str | None) -> CredentialSource:
    """A credential that never changes."""
    return CredentialSource(SecretStr(token), "the simulation", (), team_id)


def settings_of(**sections: Any) -> Settings:
    """Settings from their sections; no file and no environment is read."""
    return Settings(**sections)
