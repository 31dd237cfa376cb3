"""I13: kill -9 at the k-th executed line of a renewal, alone and beside another process."""

import json
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from syncd.config.credential_files import Stored
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call, Session
from tests.crash.conftest import MEMORY
from tests.crash.lanes import LANES, each
from tests.crash.renewer import Order
from tests.scale import SCALE, SEED

pytestmark = pytest.mark.crash

POINTS = SCALE.renewals
MODULES = ("cloud/", "config/credential_files.py")
"""Where a renewal happens; a kill anywhere else falls before or after it."""

PROJECT = Path(__file__).parents[2]
QUIET_S = 60.0

Moment = tuple[str, int, int]
"""File, line, and which execution of it."""


@dataclass
class Scene:
    """A cloud that ends a chain whose token comes twice, and a process that forks commands."""

    folder: Path
    cloud: Sandbox
    starter: "subprocess.Popen[str]"
    runs: int = 0
    seen: int = 0
    before: Session = field(init=False)
    stored: Stored = field(init=False)

    def begin(self) -> None:
        """A new installation whose session is due."""
        self.runs += 1
        self.seen = self.cloud.history.next_seq()
        pair, now_ms = self.cloud._accounts.new_session(), time.time_ns() // 1_000_000
        self.stored = Stored(self.folder / f"state-{self.runs}", self.cloud.base_url)
        self.before = Session(
            base_url=self.cloud.base_url,
            team_id=self.cloud.team_id,
            access=pair.access_token,
            refresh=pair.refresh_token,
            begun_at=now_ms - 3_600_000,
            expires_at=now_ms - 1,
        )
        self.stored.prepare()
        self.stored.write_session(self.before)

    def run(self, *, kill_at: Moment | None = None, **how: bool) -> list[int]:
        """``syncd whoami``; the exit codes. Whatever was on the wire then has arrived."""
        env = {
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "SYNCD_MODELS_DIR": str(self.folder / "models"),
            "SYNCD_STATE_DIR": str(self.stored.state_dir),
            "SYNCD_API__BASE_URL": self.cloud.base_url,
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",  # not looked for each time
        }
        order = Order(env, str(self.folder / "out"), kill_at, **how)
        assert self.starter.stdin is not None
        assert self.starter.stdout is not None
        self.starter.stdin.write(json.dumps(asdict(order)) + "\n")
        self.starter.stdin.flush()
        codes: list[int] = json.loads(self.starter.stdout.readline())
        deadline_s = time.monotonic() + QUIET_S
        while self.cloud._connections._open:
            assert time.monotonic() < deadline_s, "a connection of the dead is still open"
            time.sleep(0.001)
        return codes

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("out.[01]")))

    def kept(self) -> Session:
        """What lies there: always whole, and for its owner only."""
        assert stat.S_IMODE(self.stored.session_file.stat().st_mode) == 0o600
        session = self.stored.session()
        assert session is not None
        return session

    def renewals(self) -> list[int]:
        """What the cloud made of each token that reached it since the beginning."""
        # Killed between head and body, the caller has sent no token: such a call has no status.
        entries = self.cloud.history.entries(Call.REFRESH)
        return [e.status for e in entries if e.seq > self.seen and e.status is not None]


@pytest.fixture(scope="module")
def scenes() -> Iterator[list[Scene]]:
    """One for each lane, idle."""
    with TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        made = [_scene(Path(folder) / str(number)) for number in range(LANES)]
        try:
            yield list(made)
        finally:
            for scene in made:
                scene.starter.communicate()
                scene.cloud.__exit__(None, None, None)


def _scene(folder: Path) -> Scene:
    folder.mkdir()
    cloud = Sandbox(folder / "cloud", switches=Switches(reuse_ends_chain=True)).__enter__()
    command = [sys.executable, "-m", "tests.crash.renewer"]
    pipe = subprocess.PIPE
    starter = subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True)
    scene = Scene(folder, cloud, starter)
    scene.begin()
    assert scene.run(fork=False) == [0]
    return scene


def moments(scene: Scene) -> list[Moment]:
    """Executions of lines, drawn at random, each line of ``MODULES`` as often as the others."""
    scene.begin()
    assert scene.run(count=True) == [0], scene.said()
    counted = json.loads((scene.folder / "out.lines").read_text())
    lines = sorted((file, line, n) for file, line, n in counted if file.startswith(MODULES))
    draw = random.Random(SEED)
    return [(file, line, draw.randint(1, n)) for file, line, n in draw.choices(lines, k=POINTS)]


def kill(scene: Scene, moment: Moment, *, twin: bool) -> str:
    """Kill at the moment, go on, and say what became of the chain."""
    scene.begin()
    codes = scene.run(kill_at=moment, twin=twin)
    assert codes[0] in (0, -9), scene.said()
    arrived = scene.renewals()
    # The one thing that nobody can help: the cloud answered, and the answer died with its reader.
    lost = arrived[:1] == [200] and scene.kept().access == scene.before.access
    (code,) = scene.run()
    said = scene.said()
    if lost:
        assert code == 77, said
        assert "was lost" in said
        assert scene.renewals() == [200, 401], said
        assert scene.run() == [77]
        assert scene.renewals() == [200, 401], "a token that is known to be spent was sent again"
        return "lost with its answer"
    assert code == 0, said
    assert set(codes[1:]) <= {0}, said
    assert scene.renewals() == [200], said
    assert scene.kept().access != scene.before.access
    return "killed" if codes[0] == -9 else "not met"


@pytest.mark.parametrize("twin", [False, True], ids=["alone", "beside-another"])
def test_I13_a_kill_at_any_line_burns_no_live_chain(
    scenes: list[Scene], twin: bool, request: pytest.FixtureRequest
) -> None:
    points = moments(scenes[0])[: POINTS // 2]

    def attempt(moment: Moment) -> str:
        scene = scenes.pop()
        try:
            return kill(scene, moment, twin=twin)
        finally:
            scenes.append(scene)

    ended = each(attempt, points, request)

    # Beside another process the renewal may be that one's, and then the line is not executed.
    assert ended.count("killed") > (0.3 if twin else 0.5) * len(ended)
    assert ended.count("lost with its answer") < 0.5 * len(ended)
