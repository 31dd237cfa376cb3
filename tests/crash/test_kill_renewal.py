"""T5: kill -9 at each system call of a session's renewal that sends, receives or stores."""

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from syncd.config.credential_files import Stored
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call, Session
from tests.crash.calls import entered, most_in_a_thread
from tests.crash.conftest import MEMORY
from tests.crash.lanes import each
from tests.crash.scenario import Starter
from tests.crash.victim import Order
from tests.integration.harness import until
from tests.tools import TRACING

pytestmark = [pytest.mark.crash, pytest.mark.needs("strace", TRACING)]

CALLS = ("sendto", "recvfrom", "fsync", "rename")


class Scene:
    """A cloud that ends a chain whose token is sent twice, and installations whose session is due."""

    def __init__(self, folder: Path, cloud: Sandbox) -> None:
        self.folder, self.cloud, self.starter, self.runs = folder, cloud, Starter(), 0

    def begin(self) -> None:
        """A new installation whose session has expired."""
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

    def whoami(self, *strace: str, fork: bool = True) -> int:
        """``syncd whoami``; the exit code. Every request that was sent has then arrived."""
        env = {
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "SYNCD_MODELS_DIR": str(self.folder / "models"),
            "SYNCD_STATE_DIR": str(self.stored.state_dir),
            "SYNCD_API__BASE_URL": self.cloud.base_url,
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        }
        options = ["-f", *strace] if strace else None
        code = self.starter.run(
            Order(env, f"{self.folder}/out", fork, options, command=["whoami", "--json"])
        )
        until(lambda: not self.cloud._connections._open, "the end of all connections")
        return code

    def log(self) -> str:
        return (self.folder / "out.log").read_text()

    def kept(self) -> Session:
        """The stored session, which is always whole and private."""
        assert stat.S_IMODE(self.stored.session_file.stat().st_mode) == 0o600
        session = self.stored.session()
        assert session is not None
        return session

    def renewals(self) -> list[int]:
        """The status of each renewal since ``begin`` whose token reached the cloud."""
        entries = self.cloud.history.entries(Call.REFRESH)
        return [e.status for e in entries if e.seq > self.seen and e.status is not None]


@pytest.fixture
def scene() -> Iterator[Scene]:
    switches = Switches(reuse_ends_chain=True)
    with (
        TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder,
        Sandbox(Path(folder, "cloud"), switches=switches) as cloud,
    ):
        scene = Scene(Path(folder), cloud)
        scene.begin()
        assert scene.whoami(fork=False) == 0  # imports what the forked processes need
        yield scene
        scene.starter.close()


def kill(scene: Scene, moment: tuple[str, int]) -> str:
    """Kill a renewal, run the command again, and return the outcome for the chain."""
    name, k = moment
    scene.begin()
    killed = scene.whoami("-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={k}",
                          "-o", "/dev/null")  # fmt: skip
    assert killed in (0, -9), scene.log()
    # The cloud answered and the process died before it stored the answer: nothing can help that.
    lost = scene.renewals()[:1] == [200] and scene.kept().access == scene.before.access
    code = scene.whoami()
    if lost:
        assert code == 77, scene.log()
        assert "was lost" in scene.log()
        assert scene.renewals() == [200, 401]
        assert scene.whoami() == 77
        assert scene.renewals() == [200, 401], "a spent token was sent again"
        return "lost with its answer"
    assert code == 0, scene.log()
    assert scene.renewals() == [200], scene.log()
    assert scene.kept().access != scene.before.access
    return "killed" if killed == -9 else "not reached"


def test_I13_kill_at_any_call_of_a_renewal_burns_no_live_chain(
    scene: Scene, request: pytest.FixtureRequest
) -> None:
    log = scene.folder / "calls"
    scene.begin()
    assert scene.whoami("-e", f"trace={','.join(CALLS)}", "-o", str(log)) == 0, scene.log()
    counts = most_in_a_thread(call for call in entered(log) if call.name in CALLS)
    moments = [(name, k) for name, count in counts.items() for k in range(1, count + 1)]

    outcomes = each(lambda moment: kill(scene, moment), moments, request, lanes=1)

    assert outcomes.count("killed") > len(outcomes) / 3, json.dumps(outcomes)
    assert outcomes.count("lost with its answer") < len(outcomes) / 2
