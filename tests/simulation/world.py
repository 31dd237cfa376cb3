"""
Everything around the daemon, from one seed: its tree, its cloud, its accidents, and the calm after.

For some minutes files change, requests fail and the process dies. Then all of that ends, and within
six simulated hours every file that stands still has to be in the catalog. What happened on the way
is the oracle's business.

Sizes are a thousandth of the real ones, leaves, parts and limits alike, so that bytes cost nothing.
"""

import asyncio
import contextlib
import io
import logging
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self
from unittest import mock

import structlog
from apscheduler.executors import base as executors
from apscheduler.schedulers import base as schedulers

from syncd.config.settings import Settings
from syncd.core.jobs.retry_policy import LATEST_S
from syncd.monitoring import log
from syncd.sandbox.cloud import Stage
from syncd.store.store import Store
from syncd.types import Call, HintKind
from tests import scaling
from tests.oracle import Evidence
from tests.simulation import weather as menu
from tests.simulation.far_side import API_URL, FarSide, Weather
from tests.simulation.life import Life, settings_of, source_of
from tests.simulation.loop import VirtualClock, VirtualLoop
from tests.simulation.tree import Tree

LEAF_SIZE = 4096
PIECE_SIZE = 1500
PART_SIZE = 5120
SINGLE_PUT_LIMIT = 10_000
SMALL = (129, 700, 4096, 4097, 9000, 10_000)
LARGE = (10_001, 10_240, 14_000, 15_360, 20_481)

CALM_S = 6 * 3600.0
"""How long everything may take once the faults have ended."""

POLL_S = 20.0


@dataclass(frozen=True, slots=True)
class Story:
    """What one seed makes of a run."""

    seed: str
    session: bool
    once: bool
    grave: bool
    storm_s: float
    changes: int
    deaths: int
    stops: int
    heard_share: float

    @classmethod
    def of(cls, seed: str) -> "Story":
        draw = random.Random(f"{seed}:story")
        return cls(
            seed=seed,
            session=draw.random() < 0.8,
            once=draw.random() < 0.2,
            grave=draw.random() < 0.2,
            storm_s=draw.choice([60, 300, 1200]),
            changes=draw.choice([0, 2, 5, 12]),
            deaths=draw.choice([0, 0, 1, 2, 4]),
            stops=draw.choice([0, 0, 1]),
            heard_share=draw.choice([0.0, 0.5, 1.0, 1.0]),
        )


@dataclass(slots=True)
class Outcome:
    """What is left of a run: for the oracle, and for whoever has to understand it."""

    story: Story
    evidence: Evidence
    diary: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)


def run(seed: str, folder: Path, *, keep_log: bool = False) -> Outcome:
    """Let one seed happen in *folder*, which must be empty."""
    loop = VirtualLoop()
    with scaled_down(), calendar(loop), logged(keep_log) as stream:
        try:
            return loop.run_until_complete(World(loop, Story.of(seed), folder, stream).happen())
        finally:
            loop.close()


class World:
    """One run."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, story: Story, folder: Path, stream: io.StringIO
    ) -> None:
        self._loop = loop
        self._story = story
        self._log = stream
        self._clock = clock = VirtualClock(loop)
        self._draw = random.Random(f"{story.seed}:world")
        self._diary: list[str] = []
        self._lost: set[int] = set()
        self._life: Life | None = None
        self._deaths = story.deaths
        self._started: list[int] = []
        self._killed: list[int] = []
        self._over = self._visit = False
        switches = menu.switches(self._draw, PART_SIZE)
        self._far = FarSide(folder / "cloud", story.seed, clock.now_s, switches)
        self._weather = Weather(
            random.Random(f"{story.seed}:weather"), slow=self._draw.choice([0, 0, 0.02, 0.2])
        )
        (folder / "models").mkdir()
        self._state = folder / "state"
        self._tree = Tree(
            folder / "models",
            random.Random(f"{story.seed}:tree"),
            lambda: int(clock.now_s() * 1e9),
            self._kernel,
            SMALL + LARGE if story.session else SMALL,
        )
        self._settings = self._make_settings(folder)
        token = self._far.session.access_token if story.session else self._far.accounts.device_key
        self._token = token
        self._source = source_of(token, self._far.accounts.team_id if story.session else None)

    async def happen(self) -> Outcome:
        """The storm, the calm, and what is left."""
        for _ in range(self._draw.randint(1, 4)):
            self._change_a_file()
        self._brew()
        living = asyncio.create_task(self._lives())
        weather = asyncio.create_task(self._days())
        try:
            await asyncio.wait({living, weather}, return_when=asyncio.FIRST_COMPLETED)
            if weather.done():
                weather.result()
            await living
        finally:
            weather.cancel()
            await asyncio.gather(weather, return_exceptions=True)
        return self._outcome()

    # -- the days of the world -------------------------------------------------------------------

    async def _days(self) -> None:
        await self._storm()
        self._clear_up()
        until_s = self._loop.time() + CALM_S
        while self._loop.time() < until_s and not self._is_done():
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(LATEST_S)  # until everything on its way has arrived
        self._over = True
        self._stop_daemon("the end")

    def _brew(self) -> None:
        """Choose the faults."""
        rules = menu.rules(self._draw, grave=self._story.grave)
        self._far.faults.add(*rules)
        for rule in rules:
            self._note(f"weather: {rule}")
        for _ in range(self._draw.choice([0, 0, 1, 2])):
            start_s = self._draw.uniform(0, self._story.storm_s)
            host = self._draw.choice(["cloud", "objects", "example"])
            self._weather.outages.append((host, start_s, start_s + self._draw.uniform(1, 900)))
        self._note(f"outages: {self._weather.outages}, slow: {self._weather.slow}")

    async def _storm(self) -> None:
        story = self._story
        events = [self._change_a_file] * story.changes
        events += [lambda: self._stop_daemon("SIGTERM")] * story.stops
        events += [self._forget_upload] * self._draw.choice([0, 0, 0, 1])
        times = sorted(self._draw.uniform(0, story.storm_s) for _ in events)
        self._draw.shuffle(events)
        for at_s, event in zip(times, events, strict=True):
            await asyncio.sleep(max(0.0, at_s - self._loop.time()))
            event()
        await asyncio.sleep(max(0.0, story.storm_s - self._loop.time()))

    def _clear_up(self) -> None:
        self._note("calm")
        self._weather.storm = False
        self._far.faults.clear()
        self._far.switches = replace(self._far.switches, url_lifetime_s=900)
        self._deaths = 0
        if self._life is not None:
            self._life.die_at = None
        while not self._tree.paths():
            self._change_a_file()
        if self._story.grave:
            self._visit = True
            self._stop_daemon("an operator comes")

    def _is_done(self) -> bool:
        held = {
            (record.model_path, record.file_hash)
            for record in self._far.cloud.records()
            if record.model_status == "active"
        }
        still = {(path, f"sha256:{sha256}") for path, sha256 in self._still().items()}
        return still <= held and not self._has_work()

    def _still(self) -> dict[str, str]:
        """
        What has to be in the catalog at the end.

        With a device key no large file; and where two registers in a row got no answer on a server
        without a listing, the outcome is unknown.
        """
        still = self._tree.still(None if self._story.session else SINGLE_PUT_LIMIT)
        if self._far.switches.listing_off is None:
            return still
        sql = "SELECT model_path FROM job WHERE state = 'failed' AND register_repeated_at > 0"
        unknown = {path for (path,) in self._query(sql)}
        return {path: sha256 for path, sha256 in still.items() if path not in unknown}

    def _has_work(self) -> bool:
        """Is there a live job or an upload that has to be ended? Asked of the state directory."""
        live = "SELECT 1 FROM job WHERE state IN ('queued', 'leased') AND held_class IS NULL"
        return bool(
            self._query(f"{live} UNION SELECT 1 FROM upload WHERE state IN ('open', 'unwanted')")
        )

    def _query(self, sql: str) -> list[tuple[Any, ...]]:
        """The state directory's own answer, past the program."""
        with contextlib.closing(sqlite3.connect(self._state / "syncd.db")) as connection:
            return connection.execute(sql).fetchall()

    # -- what happens ----------------------------------------------------------------------------

    def _change_a_file(self) -> None:
        self._note(self._tree.change())

    def _disturb(self, path: str) -> None:
        if self._weather.storm:
            self._note(f"another program writes to {path} while it is read")
            self._tree.disturb(path)

    def _forget_upload(self) -> None:
        """
        The store drops an upload, as a lifecycle rule would.

        Not before the server has shown that it has the calls: a first 404 speaks of the route.
        """
        shown = {call.call for call in self._far.history.entries() if call.answered == 200}
        opened = [each for each in self._far.cloud.uploads() if each.stage is Stage.OPEN]
        if opened and {Call.SIGN_PART, Call.COMPLETE} <= shown:
            forgotten = self._draw.choice(opened)
            self._note(f"the store forgets upload {forgotten.upload_id}")
            self._far.forget(forgotten)

    def _kernel(self, path: str, kind: HintKind) -> None:
        """An event of the kernel, which may or may not get through."""
        if self._life is not None and self._draw.random() < self._story.heard_share:
            self._life.hint(path, kind)

    def _stop_daemon(self, reason: str) -> None:
        if self._life is not None:
            self._note(f"stop: {reason}")
            self._life.service.stop()

    # -- the daemon's lives ----------------------------------------------------------------------

    async def _lives(self) -> None:
        while not self._over:
            if self._visit:
                self._visit = False
                self._requeue()
            await self._one_life()
            if not self._over:
                await asyncio.sleep(self._draw.uniform(0.1, 300))

    async def _one_life(self) -> None:
        die_at = self._draw.randint(1, 400) if self._deaths else None
        self._life = life = Life(
            self._settings,
            self._source,
            self._far,
            self._weather,
            self._clock,
            random.Random(f"{self._story.seed}:life:{len(self._started)}"),
            die_at=die_at,
            lost=self._lost,
            disturb=self._disturb,
            once=self._story.once,
        )
        self._started.append(self._clock.now_ms())
        self._note(f"life {len(self._started)} begins, dies at {die_at}")
        code = await life.live()
        if life.dead:
            self._deaths -= 1
        if life.dead or self._settings.upload.shutdown_grace_s == 0:
            self._killed.append(self._clock.now_ms())
        self._life = None
        self._note(f"it ends with {code} after {life.steps} steps")

    def _requeue(self) -> None:
        """What an operator does who has read the advice."""
        store = Store(str(self._state))
        store.jobs.requeue_failed(self._clock.now_ms(), reason="an operator asked for it")
        store.close()

    # -- what is left ----------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        evidence = self._far.evidence(
            lost=self._lost,
            secrets=[self._token],
            versions=self._tree.versions,
            still=self._still(),
            state_dir=self._state,
            started=self._started,
            killed=self._killed,
            log=self._log.getvalue(),
        )
        return Outcome(self._story, evidence, self._diary, self._rejected())

    def _rejected(self) -> list[str]:
        """Why jobs failed, except where the outcome is unknown."""
        sql = (
            "SELECT reason FROM job_event JOIN job ON job.id = job_event.job_id"
            " WHERE event = 'reject' AND register_repeated_at IS NULL ORDER BY job_event.id"
        )
        return [reason for (reason,) in self._query(sql)]

    def _note(self, what: str) -> None:
        self._diary.append(f"{self._loop.time():10.3f} {what}")

    def _make_settings(self, folder: Path) -> Settings:
        draw = self._draw
        return settings_of(
            models_dir=folder / "models",
            state_dir=self._state,
            api={
                "base_url": API_URL,
                "single_put_limit": SINGLE_PUT_LIMIT,
                "team_id": self._far.accounts.team_id if self._story.session else None,
            },
            scan={"interval_s": draw.choice([300, 3600])},
            catalog={
                "on_delete": draw.choice(["keep", "disable", "delete"]),
                "delete_grace_s": draw.choice([1, 120]),
            },
            settle={"quiet_s": draw.choice([5, 30]), "quiet_closed_s": draw.choice([2, 10])},
            upload={
                "files": draw.choice([1, 2, 3]),
                "parts": draw.choice([1, 2, 4]),
                "parts_max": 16,
                "shutdown_grace_s": draw.choice([0, 20]),
            },
        )


def scaled_down() -> contextlib.AbstractContextManager[None]:
    """Leaves, pieces and parts a thousandth of their size."""
    return scaling.scaled_down(leaf=LEAF_SIZE, piece=PIECE_SIZE, part=PART_SIZE)


@contextlib.contextmanager
def calendar(loop: VirtualLoop) -> Iterator[None]:
    """The scheduler asks the date of the standard library: it gets the simulation's."""

    class Date(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(VirtualClock.EPOCH_S + loop.time() + loop.wrong_s, tz)

    with contextlib.ExitStack() as stack:
        for module in (schedulers, executors):
            stack.enter_context(mock.patch.object(module, "datetime", Date))
        yield


@contextlib.contextmanager
def logged(keep: bool) -> Iterator[io.StringIO]:
    """Capture the program's log if *keep*."""
    stream = io.StringIO()
    before = structlog.get_config()
    if keep:
        log.configure(format="json", level="info", stream=stream)
    else:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield stream
    finally:
        structlog.configure(**before)
