"""
This machine once more, booted by systemd in namespaces of its own.

Its root is an overlay of this one's: all that is here is there, and what is written there is gone
with it. The network is this machine's. This checkout is at ``CHECKOUT`` there: its own path may lie
below ``/tmp``, which a unit does not see, or below a folder that only root may enter.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CHECKOUT = "/opt/syncd"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_S = 60.0
COMMAND_S = 120.0

BOOT = """
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
exec systemd-nspawn --quiet --keep-unit --register=no --link-journal=no --console=pipe \\
    --directory="$1/root" --bind-ro="$2" --bind-ro="$3" --boot \\
    systemd.unit=basic.target systemd.show_status=no
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """One that runs; *leader* is its first process as this machine numbers it."""

    leader: int

    def run(self, *command: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        """*command* on it, as root, with *text* on its standard input."""
        entered = ["nsenter", f"--target={self.leader}", "--all", "--", *command]
        return subprocess.run(
            entered, input=text, text=True, capture_output=True, check=False, timeout=COMMAND_S,
            env={"PATH": PATH, "LANG": "C.UTF-8"},  # nothing of the tests' own
        )  # fmt: skip

    def do(self, *command: str, text: str = "") -> str:
        """What *command* prints; it has to succeed."""
        done = self.run(*command, text=text)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """A file on it."""
        self.do("install", "-D", "-m", mode, "/dev/stdin", path, text=text)

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """What systemd says of *unit*."""
        shown = self.do("systemctl", "show", unit, f"--property={','.join(names)}")
        return dict(line.split("=", 1) for line in shown.splitlines())


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """A machine until the block ends; *folder* is where its root is mounted."""
    log = folder / "boot.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--mount", "--cgroup", "sh", "-euc", BOOT, "boot",
             os.fspath(folder), f"{PROJECT}:{CHECKOUT}", sys.base_prefix],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        machine = Machine(_leader(process, log))
        _wait_until_up(machine, log)
        yield machine
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(BOOT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _remove_cgroups()


def _leader(process: "subprocess.Popen[bytes]", log: Path) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline_s = time.monotonic() + BOOT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        for child in map(int, children.read_text().split()):
            with suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return child
        time.sleep(0.1)
    raise AssertionError(f"it did not boot:\n{log.read_text()}")


def _wait_until_up(machine: Machine, log: Path) -> None:
    deadline_s = time.monotonic() + BOOT_S
    up: Sequence[str] = ("running\n", "degraded\n")  # a unit of this machine may fail there
    while machine.run("systemctl", "is-system-running").stdout not in up:
        assert time.monotonic() < deadline_s, f"it did not come up:\n{log.read_text()}"
        time.sleep(0.1)


def _remove_cgroups() -> None:
    """systemd-nspawn leaves these empty groups behind where nothing else cares for them."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controller, path = line.split(":", 2)
        hierarchy = controller.removeprefix("name=") or "unified"
        for name in ("payload", "supervisor"):
            group = Path(f"/sys/fs/cgroup/{hierarchy}{path}") / name
            for found in sorted(group.rglob("*/"), reverse=True):
                with suppress(OSError):
                    found.rmdir()
            with suppress(OSError):
                group.rmdir()
