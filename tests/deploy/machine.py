"""
A copy of this machine, booted by systemd in its own namespaces.

Its root is an overlay of this machine's root, so changes are lost when it stops. It shares the
network. The checkout is mounted at ``CHECKOUT``, because its real path may be below ``/tmp``, which
units do not see, or below a folder that only root can enter.
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
    """A running copy; *leader* is the process id of its init on this machine."""

    leader: int

    def run(self, *command: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        """Run *command* in it as root, with *text* on standard input."""
        entered = ["nsenter", f"--target={self.leader}", "--all", "--", *command]
        return subprocess.run(
            entered, input=text, text=True, capture_output=True, check=False, timeout=COMMAND_S,
            env={"PATH": PATH, "LANG": "C.UTF-8"},  # not the environment of the tests
        )  # fmt: skip

    def do(self, *command: str, text: str = "") -> str:
        """Run *command*, require success, and return its output."""
        result = self.run(*command, text=text)
        assert result.returncode == 0, (
            f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
        )
        return result.stdout

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file in it."""
        self.do("install", "-D", "-m", mode, "/dev/stdin", path, text=text)

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of *unit* as systemd reports them."""
        shown = self.do("systemctl", "show", unit, f"--property={','.join(names)}")
        return dict(line.split("=", 1) for line in shown.splitlines())


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Boot a machine for the block; its root is mounted in *folder*."""
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
    up: Sequence[str] = ("running\n", "degraded\n")  # an unrelated unit may fail in the copy
    while machine.run("systemctl", "is-system-running").stdout not in up:
        assert time.monotonic() < deadline_s, f"it did not come up:\n{log.read_text()}"
        time.sleep(0.1)


def _remove_cgroups() -> None:
    """Remove the empty cgroups that systemd-nspawn leaves behind."""
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
