"""What a syncd does to the machine, as its own interpreter reports it: nothing but its work."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from tests.integration.harness import (
    COMMAND,
    DEADLINE_S,
    PROJECT,
    RUN_S,
    Daemon,
    Home,
    records,
    until,
)  # fmt: skip

CODE = COMMAND[-1]
WATCHED = (sys.executable, "-B", "-m", "tests.integration.watched")
WRONG = {
    "pickle.find_class": "import pickle; pickle.loads(b'cbuiltins\\nlen\\n.')",
    "subprocess.Popen": "import subprocess; subprocess.run(['true'])",
    "os.posix_spawn": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "os.fork": "import os; os.fork() or os._exit(0)",
    "open": "import os; open(os.environ['SYNCD_MODELS_DIR'] + '/loras/x', 'w')",
    "os.rename": "import os; os.rename('/nowhere', '/elsewhere')",
    "sqlite3.connect": "import os, sqlite3; sqlite3.connect(os.environ['HOME'] + '/x.db')",
    "socket.connect": "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
    " s.connect(('192.0.2.1', 9))",
}


@dataclass
class Watched:
    """A command under the hook, and what the hook has told so far."""

    process: "subprocess.Popen[bytes]"
    told: Path
    log: Path

    def reports(self) -> list[str]:
        return self.told.read_text().splitlines()


@contextmanager
def watched(home: Home, *args: str, code: str = CODE) -> Iterator[Watched]:
    base = home.state.parent
    folders = {name: base / name for name in ("run", "tmp")}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    right = ":".join(map(os.fspath, (home.state, *folders.values())))
    environment = {
        "RUNTIME_DIRECTORY": os.fspath(folders["run"]),
        "TMPDIR": os.fspath(folders["tmp"]),
        "SYNCD_LOG__LEVEL": "debug",
        **home.environment(),
    }
    told, log = base / "told", base / "log"
    with told.open("wb") as report, log.open("wb") as output:
        process = subprocess.Popen(
            [*WATCHED, str(report.fileno()), right, code, *args],
            cwd=PROJECT,
            env=environment,
            stdout=output,
            stderr=output,
            pass_fds=(report.fileno(),),
        )
    try:
        yield Watched(process, told, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_backfill_starts_nothing_unpickles_nothing_and_stays_in_its_folders(
    large_home: Home, cloud: Sandbox
) -> None:
    large_home.sign_in(cloud)
    large_home.write("checkpoints/legacy.pt", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    large_home.let_age()

    with watched(large_home, "--once") as syncd:
        code = syncd.process.wait(RUN_S)

    assert code in (0, 1), syncd.log.read_text()
    assert len(records(cloud)) >= 3
    assert syncd.reports() == []


def test_a_daemon_starts_nothing_unpickles_nothing_and_stays_in_its_folders(
    home: Home, cloud: Sandbox
) -> None:
    with watched(home) as syncd:
        until(lambda: len(cloud.records()) == 2, "both files")
        code = Daemon(syncd.process, syncd.log).stop()

    assert code == 143, syncd.log.read_text()
    assert (home.state / "syncd.db").exists()
    assert syncd.reports() == []


@pytest.mark.parametrize("event", WRONG)
def test_the_hook_tells_what_no_syncd_has_to_do(tmp_path: Path, event: str) -> None:
    home = Home.at(tmp_path / "home")
    with watched(home, code=WRONG[event]) as program:
        program.process.wait(DEADLINE_S)

    assert event in {line.split()[0] for line in program.reports()}
