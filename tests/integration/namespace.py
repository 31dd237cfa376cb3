"""A mount namespace of its own, in which a test may mount disks; it needs no privileges."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.harness import COMMAND, PROJECT, RUN_S, Daemon, Finished, Home

UNSHARED = ("unshare", "--user", "--map-root-user", "--mount")
READY = b"ready\n"


@dataclass(frozen=True, slots=True)
class Namespace:
    """Runs commands and daemons of a home where only they see what is mounted."""

    home: Home
    inside: Sequence[str]

    def mount(self, *args: str | Path) -> None:
        """``mount`` with *args*."""
        subprocess.run([*self.inside, "mount", *args], check=True)

    def bind(self, disk: Path, folder: Path) -> None:
        """Mount the directory *disk* at *folder*, which is created."""
        for directory in (disk, folder):
            directory.mkdir(parents=True, exist_ok=True)
        self.mount("--bind", disk, folder)

    def unmount(self, folder: Path) -> None:
        """``umount``, lazily: a daemon may have the folder open for a moment."""
        subprocess.run([*self.inside, "umount", "--lazy", folder], check=True)

    def run(self, *args: str) -> Finished:
        """``syncd`` with *args*, to its end."""
        done = subprocess.run(
            [*self.inside, *COMMAND, *args],
            cwd=PROJECT, env=self.home.environment(), capture_output=True, text=True, timeout=RUN_S,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr, 0.0)

    @contextmanager
    def daemon(self) -> Iterator[Daemon]:
        """``syncd``, running; killed at the end of the block if it still runs."""
        log = self.home.state.parent / "daemon.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.inside, *COMMAND], cwd=PROJECT, env=self.home.environment(), stderr=output
            )
        try:
            yield Daemon(process, log)
        finally:
            process.kill()
            process.wait()


@contextmanager
def namespace(home: Home) -> Iterator[Namespace]:
    """A namespace that exists for the length of the block."""
    keeper = subprocess.Popen(
        [*UNSHARED, "sh", "-c", "echo ready && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdout is not None
    try:
        assert keeper.stdout.readline() == READY
        yield Namespace(
            home,
            (
                "nsenter",
                "--target",
                str(keeper.pid),
                "--user",
                "--mount",
                "--preserve-credentials",
                "--wd",
            ),
        )
    finally:
        keeper.kill()
        keeper.communicate()
