"""
A stage for one fault at a time: the whole daemon in virtual time, one tree, one cloud.

Faults are injected at one call and cleared again. Their effect is read from the cloud's history and
from the state directory, not from the daemon.
"""

import asyncio
import contextlib
import hashlib
import inspect
import os
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from syncd.config.credential import CredentialSource, TokenFile
from syncd.config.credential_files import Stored
from syncd.sandbox.cloud import Registered
from syncd.sandbox.faults import Rule
from syncd.sandbox.history import Entry
from syncd.sandbox.objects import Body
from syncd.sandbox.switches import Switches
from syncd.store.store import Store
from syncd.types import Call, HintKind, Session
from tests.memory import folder as memory_folder
from tests.model_files import safetensors
from tests.oracle import Evidence, check
from tests.scale import SEED
from tests.simulation import life as lives
from tests.simulation.far_side import API_URL, FarSide, Weather
from tests.simulation.life import Life, settings_of
from tests.simulation.loop import VirtualClock, VirtualLoop
from tests.simulation.tree import model_path
from tests.simulation.world import PART_SIZE, SINGLE_PUT_LIMIT, calendar, logged, scaled_down

SMALL, LARGE = "loras/small.safetensors", "checkpoints/large.safetensors"
OTHER = "vae/other.safetensors"
SIZES = {SMALL: 9000, LARGE: 14_000, OTHER: 5000}

HOUR_S = 3600.0
STEP_S = 0.25
ROUTES = {
    ("POST", "/models/presign"): Call.PRESIGN,
    ("POST", "/models"): Call.REGISTER,
    ("GET", "/models"): Call.LIST_MODELS,
    ("POST", "/uploads/multipart/initiate"): Call.INITIATE,
    ("POST", "/uploads/multipart/presign"): Call.SIGN_PART,
    ("POST", "/uploads/multipart/complete"): Call.COMPLETE,
    ("POST", "/uploads/multipart/abort"): Call.ABORT,
}


def call_of(request: httpx.Request) -> Call | None:
    """Which call a request is."""
    if request.method == "PUT":
        return Call.PUT_PART if "partNumber" in request.url.params else Call.PUT_BODY
    path = request.url.path.removeprefix("/api/v1")
    return ROUTES.get((request.method, path), Call.GET_MODEL if "/models/" in path else None)


def part_of(request: httpx.Request) -> int | None:
    """The number of the part that a request sends."""
    number = request.url.params.get("partNumber")
    return None if number is None else int(number)


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that failed: when, in seconds of the loop's time, and which."""

    at_s: float
    call: Call | None
    part: int | None


@dataclass(frozen=True, slots=True)
class Broken:
    """
    The line breaks at *call*, and after it for every request or for that call only.

    Args:
        after_s: Seconds until the program learns.
        once: Only the first time.
    """

    call: Call
    error: Callable[[], httpx.TransportError]
    after_s: float = 0.1
    everything: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class Slow:
    """
    At *call* an answer drips, or a body trickles: seconds from byte to byte, or from piece to piece.

    Args:
        silent: The store reads nothing of the body.
        once: Only the first request.
    """

    call: Call
    drip_s: float = 0.0
    piece_s: float = 0.0
    silent: bool = False
    once: bool = False


@dataclass(slots=True)
class Line(Weather):
    """Weather under control of the test; ``on_request`` sees each request before it leaves."""

    broken: Broken | None = None
    slow_at: Slow | None = None
    slowed: list[httpx.Request] = field(default_factory=list)
    began: bool = False
    on_request: Callable[[httpx.Request], None] = lambda request: None
    failed: list[Failed] = field(default_factory=list)

    def latency_s(self) -> float:
        return 0.05

    def is_silent(self, request: httpx.Request) -> bool:
        return self.slow_at is not None and self.slow_at.silent and request in self.slowed

    def drip_s(self, request: httpx.Request) -> float:
        slow = self.slow_at
        return slow.drip_s if slow is not None and request in self.slowed else 0.0

    def piece_s(self, request: httpx.Request) -> float:
        slow = self.slow_at
        return slow.piece_s if slow is not None and request in self.slowed else 0.0

    def is_out(self, request: httpx.Request, now_s: float) -> bool:
        self.on_request(request)
        slow = self.slow_at
        if slow is not None and call_of(request) is slow.call and not (slow.once and self.slowed):
            self.slowed.append(request)
            self.failed.append(Failed(now_s, slow.call, part_of(request)))
        if self.broken is None:
            return False
        call = call_of(request)
        if call is not self.broken.call and not (self.began and self.broken.everything):
            return False
        if self.began and self.broken.once:
            return False
        self.began = True
        self.failed.append(Failed(now_s, call, part_of(request)))
        return True

    def failure(self, *, fresh: bool) -> tuple[float, httpx.TransportError]:
        assert self.broken is not None
        return self.broken.after_s, self.broken.error()


@dataclass(slots=True)
class Stage:
    """
    The tree, the cloud and the daemon.

    Args:
        session: A signed-in user's token; else a device key.
        jitter: Draws the jitter of waits; None: at random.
        log: What the daemon logs.
    """

    loop: asyncio.AbstractEventLoop
    folder: Path
    log: Any
    session: bool = True
    jitter: Callable[[], float] | None = None
    switches: Switches = field(default_factory=Switches)
    settings: dict[str, Any] = field(default_factory=dict)
    clock: VirtualClock = field(init=False)
    far: FarSide = field(init=False)
    line: Line = field(init=False)
    life: Life | None = None
    living: asyncio.Task[int | None] | None = None
    while_read: Callable[[str], None] = lambda path: None
    versions: dict[str, set[str]] = field(default_factory=dict)
    started: list[int] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    injected_ms: int = 0

    def __post_init__(self) -> None:
        self.clock = VirtualClock(self.loop)
        self.far = FarSide(self.folder / "cloud", "matrix", self.clock.now_s, self.switches)
        self.line = Line(random.Random("line"))
        self.root.mkdir()
        self.give(self.far.session.access_token if self.session else self.far.accounts.device_key)

    @property
    def root(self) -> Path:
        return self.folder / "models"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def register_elsewhere(self, path: str) -> None:
        """Another machine has brought this file into the catalog."""
        data = (self.root / path).read_bytes()
        key, sha256 = f"elsewhere/{path}", hashlib.sha256(data).hexdigest()
        body = self.folder / "elsewhere"
        body.write_bytes(data)
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.far.objects._objects[key] = (Body(body, len(data), etag),)
        members: dict[str, Any] = {
            "display_name": path, "model_type": path.split("/")[0], "storage_key": key,
            "file_size": len(data), "file_hash": f"sha256:{sha256}",
            "model_path": model_path(path),
        }  # fmt: skip
        self.far.history.add(Entry(
            seq=self.far.history.next_seq(), at_ms=self.clock.now_ms(), call="elsewhere",
            method="PUT", path=key, header_names=(), model_path=model_path(path), storage_key=key,
            status=200, answered=200,
        ))  # fmt: skip
        record = Registered(
            id="elsewhere-1", model_status="active", created_at="", updated_at="", **members
        )
        self.far.cloud._records[record.id] = record

    # -- the tree --------------------------------------------------------------------------------

    def write(self, path: str, size: int | None = None, *, salt: str = "") -> None:
        """A whole model file, the same for the same name and *salt*."""
        self.put(path, whole_file(SIZES[path] if size is None else size, f"{path}{salt}"))

    def put(self, path: str, data: bytes) -> None:
        """These bytes at that path, in place."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self.stamp(path)

    def stamp(self, path: str) -> None:
        """It was changed now; the kernel's own clock is in another year."""
        now_ns = int(self.clock.now_s() * 1e9)
        os.utime(self.root / path, ns=(now_ns, now_ns))
        self.note(path)
        self.hint(path, HintKind.CLOSED)

    def note(self, path: str) -> None:
        """What the file holds now is one of its versions."""
        self.versions.setdefault(model_path(path), set()).add(self.sha256(path))

    def sha256(self, path: str) -> str:
        return hashlib.sha256((self.root / path).read_bytes()).hexdigest()

    def hint(self, path: str, kind: HintKind) -> None:
        """What the kernel says."""
        if self.life is not None:
            self.life.hint(path, kind)

    # -- the daemon ------------------------------------------------------------------------------

    def give(self, token: str) -> None:
        """The operator puts this token in place."""
        path = self.folder / "token"
        path.write_text(token)
        path.chmod(0o600)

    @property
    def stored(self) -> Stored:
        """Where ``syncd login`` keeps what it gets."""
        return Stored(self.state, API_URL, self.far.accounts.team_id)

    def sign_in(self) -> Session:
        """``syncd login --large-files``."""
        pair, now_ms = self.far.accounts.new_session(), self.clock.now_ms()
        session = Session(
            base_url=API_URL,
            team_id=self.far.accounts.team_id,
            access=pair.access_token,
            refresh=pair.refresh_token,
            begun_at=now_ms,
            expires_at=now_ms + pair.expires_in * 1000,
        )
        self.stored.prepare()
        self.stored.write_session(session)
        return session

    def knows_routes(self, *calls: Call) -> None:
        """The server has answered these before."""
        store = Store(os.fspath(self.state))
        for call in calls:
            store.servers.note_answered(API_URL, call)
        store.close()

    def start(self, *, once: bool = False) -> None:
        """The daemon, or a backfill."""
        team = self.far.accounts.team_id
        tokens = (TokenFile(self.folder / "token"),)
        source = CredentialSource(None, "", tokens, team, self.stored)
        sections = {
            "upload": {"files": 2, "parts": 4, "parts_max": 4},
            "settle": {"quiet_s": 5, "quiet_closed_s": 2},
            **self.settings,
        }
        settings = settings_of(
            models_dir=self.root,
            state_dir=self.state,
            api={"base_url": API_URL, "single_put_limit": SINGLE_PUT_LIMIT, "team_id": team},
            **sections,
        )
        self.life = Life(
            settings,
            source,
            self.far,
            self.line,
            self.clock,
            random.Random(f"life {len(self.started)}"),
            lost=self.lost,
            disturb=lambda path: self.while_read(path),
            jitter=self.jitter,
            once=once,
        )
        self.started.append(int(self.clock.now_s() * 1000))
        self.living = asyncio.create_task(self.life.live())

    async def begin(self, *paths: str) -> None:
        """Write whole files, start the daemon, and wait until they are registered."""
        for path in paths:
            self.write(path)
        self.start()
        for path in paths:
            await self.arrives(path)

    async def finish(self, *paths: str) -> None:
        """Wait until *paths* are registered, stop the daemon, and ask the oracle."""
        for path in paths:
            await self.arrives(path)
        await self.stop()
        check(self.evidence({model_path(path): self.sha256(path) for path in paths}))

    @contextlib.contextmanager
    def without_events(self) -> Iterator[None]:
        """Within the block, the watcher reports no events."""
        life, self.life = self.life, None
        yield
        self.life = life

    async def ended(self) -> int | None:
        """Wait for its end; the exit code, None after a kill."""
        assert self.life is not None
        assert self.living is not None
        code = await self.living
        if self.life.dead:
            self.killed.append(int(self.clock.now_s() * 1000))
        self.life = self.living = None
        return code

    async def stop(self) -> int | None:
        """As on SIGTERM, to the end."""
        assert self.life is not None
        self.life.service.stop()
        return await self.ended()

    async def restart(self) -> None:
        """Stop it and start it again."""
        await self.stop()
        self.start()

    # -- faults ----------------------------------------------------------------------------------

    def inject(self, *rules: Rule, broken: Broken | None = None, slow: Slow | None = None) -> None:
        """From now on this goes wrong."""
        self.far.faults.add(*rules)
        self.line.slow_at = slow
        self.line.broken, self.line.began = broken, False
        self.injected_ms = self.clock.now_ms()

    def clear_faults(self) -> None:
        """Nothing goes wrong any more."""
        self.far.faults.clear()
        self.line.broken = self.line.slow_at = None
        self.line.on_request = lambda request: None

    # -- what became of it -----------------------------------------------------------------------

    async def until(
        self, condition: Callable[[], Any], what: str, within_s: float = 2 * HOUR_S
    ) -> Any:
        """Wait until *condition* is true, and return its value."""
        until_s = self.loop.time() + within_s
        while not (answer := condition()):
            if self.living is not None and self.living.done():
                self.living.result()
            assert self.loop.time() < until_s, f"{what} did not come\n{self.report()}"
            await asyncio.sleep(STEP_S)
        return answer

    def query(self, sql: str, *values: Any) -> list[Any]:
        """The state directory's own answer, past the program."""
        path = self.state / "syncd.db"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql, values).fetchall()

    def job(self, path: str) -> Any:
        """The last job of a path, or None."""
        sql = "SELECT * FROM job WHERE rel_path = ? ORDER BY id DESC LIMIT 1"
        return next(iter(self.query(sql, os.fsencode(path))), None)

    def events(self, path: str) -> list[str]:
        """What happened to the jobs of a path."""
        sql = (
            "SELECT event FROM job_event JOIN job ON job.id = job_event.job_id"
            " WHERE rel_path = ? AND event IS NOT NULL ORDER BY job_event.id"
        )
        return [row["event"] for row in self.query(sql, os.fsencode(path))]

    def holds(self) -> list[Any]:
        return self.query("SELECT * FROM hold ORDER BY since")

    def calls(self, *names: Call, path: str | None = None) -> list[Entry]:
        """Calls that arrived, in the order of arrival."""
        found = self.far.history.entries(*names)
        wanted = [e for e in found if path is None or e.model_path in (None, model_path(path))]
        return sorted(wanted, key=lambda entry: entry.seq)

    def hit(self) -> list[Entry]:
        """Calls in which a fault was injected."""
        return [entry for entry in self.calls() if entry.fault is not None]

    def registered(self, path: str) -> bool:
        """Is it in the catalog as it is now?"""
        wanted = (model_path(path), f"sha256:{self.sha256(path)}")
        return wanted in {(r.model_path, r.file_hash) for r in self.far.cloud.records()}

    async def arrives(self, path: str) -> None:
        """Wait until the file is registered and the queue is empty."""
        await self.until(lambda: self.registered(path), f"{path} in the catalog", 6 * HOUR_S)
        await self.until(lambda: not self._busy(), "an empty queue", 6 * HOUR_S)

    def _busy(self) -> bool:
        live = "SELECT 1 FROM job WHERE state IN ('queued', 'leased')"
        uploads = "SELECT 1 FROM upload WHERE state IN ('open', 'unwanted')"
        return bool(self.query(f"{live} UNION {uploads} UNION SELECT 1 FROM hold"))

    def evidence(self, still: dict[str, str]) -> Evidence:
        """All that is left, for the oracle."""
        return self.far.evidence(
            lost=self.lost,
            secrets=[self.far.session.access_token, self.far.accounts.device_key],
            versions=self.versions,
            still=still,
            state_dir=self.state,
            started=self.started,
            killed=self.killed,
            log=self.log.getvalue(),
        )

    def report(self) -> str:
        """Jobs, holds, calls and log, for the message of a failure."""
        jobs = [dict(row) for row in self.query("SELECT * FROM job")]
        holds = [dict(row) for row in self.holds()]
        calls = [
            f"{e.at_ms} {e.call} {e.model_path} {e.part} {e.status} {e.answered} {e.fault}"
            for e in self.far.history.entries()
        ]
        return "\n".join(
            [
                *map(str, jobs),
                *map(str, holds),
                *calls[-40:],
                *self.log.getvalue().splitlines()[-15:],
            ]
        )


def cells(faults: int | Iterable[int], *phases: str) -> pytest.MarkDecorator:
    """Parametrize ``phase``, and ``fault`` if there are several; each test is marked with its cell."""
    numbers = [faults] if isinstance(faults, int) else faults
    rows = [
        pytest.param(
            *([] if isinstance(faults, int) else [number]),
            phase,
            id=f"F{number:02}-{phase}",
            marks=pytest.mark.cell(f"F{number:02}-{phase}"),
        )
        for number in numbers
        for phase in phases
    ]
    return pytest.mark.parametrize("phase" if isinstance(faults, int) else ("fault", "phase"), rows)


def whole_file(size: int, salt: str) -> bytes:
    """A safetensors file of *size* bytes."""
    data = size - 128
    tensor = f'{{"w":{{"dtype":"U8","shape":[{data}],"data_offsets":[0,{data}]}}}}'
    return safetensors(tensor.encode().ljust(120), random.Random(salt).randbytes(data))


@cache
def _draw_of(test: str) -> random.Random:
    """What a test leaves to chance; the same in every run of one seed."""
    return random.Random(f"{SEED}:{test}")


def play(scenario: Callable[[Stage], Awaitable[None]], **how: Any) -> None:
    """Run *scenario* on a fresh stage, then stop the daemon."""
    loop = VirtualLoop()
    switches = Switches(
        part_size=PART_SIZE,
        min_part_size=PART_SIZE,
        second_complete=200,
        register_repeats=_draw_of(os.environ.get("PYTEST_CURRENT_TEST", "")).random() < 0.5,
        access_token_lifetime_s=10**7,
    )
    switches = replace(switches, **how.pop("switches", {}))

    async def acted(stage: Stage) -> None:
        try:
            await scenario(stage)
        finally:
            if stage.living is not None:
                stage.living.cancel()
                await asyncio.gather(stage.living, return_exceptions=True)

    with (
        memory_folder() as folder,
        scaled_down(),
        calendar(loop),
        logged(True) as log,
        mock.patch.object(lives._Scales, "CHANCE", 1.0),
    ):
        try:
            stage = Stage(loop, folder, log, switches=switches, **how)
            loop.run_until_complete(acted(stage))
        finally:
            loop.close()


def staged(**how: Any) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Run a test of a stage, its first argument, with ``play``."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @wraps(test)
        def run(**parameters: Any) -> None:
            play(lambda stage: test(stage, **parameters), **how)

        signature = inspect.signature(test)
        _, *others = signature.parameters.values()
        run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return run

    return decorate
