"""
What the tests need besides Python: programs, and rights that not every account has.

``python -m tests.tools`` installs the missing programs where it may: as root, or through a ``sudo``
that asks for no password, where ``apt-get`` exists. Tests whose needs are not met are skipped by
``tests/conftest.py``, which lists them at the end of the run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

PACKAGES: Final[Mapping[str, str]] = {
    "aria2c": "aria2",
    "curl": "curl",
    "git": "git",
    "git-lfs": "git-lfs",
    "groff": "groff",
    "ip": "iproute2",
    "kill": "procps",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "promtool": "prometheus",
    "rclone": "rclone",
    "rsync": "rsync",
    "shellcheck": "shellcheck",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "systemd-tmpfiles": "systemd",
    "unshare": "util-linux",
    "unzip": "unzip",
    "wget": "wget",
}
"""The programs that ``make test`` runs -> their Debian packages."""

ROOT_PACKAGES: Final[Mapping[str, str]] = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "setpriv": "util-linux",
    "systemd-nspawn": "systemd-container",
}
"""What ``make service-test`` and ``make image-test`` run besides."""

ROOT: Final = "root"
NAMESPACES: Final = "user namespaces"
TRACING: Final = "tracing of running processes"

YAMA: Final = Path("/proc/sys/kernel/yama/ptrace_scope")
"""Above 0, a process traces its descendants only, unless it is root's."""


def _is_root() -> bool:
    return os.geteuid() == 0


def _makes_namespaces() -> bool:
    made = ["unshare", "--user", "--map-root-user", "--mount", "--net", "true"]
    return subprocess.run(made, capture_output=True, check=False).returncode == 0


def _traces() -> bool:
    return _is_root() or not YAMA.exists() or int(YAMA.read_text()) == 0


@dataclass(frozen=True, slots=True)
class Right:
    """What an account may do, or not; ``remedy`` says how it comes to be allowed."""

    granted: Callable[[], bool]
    remedy: str


RIGHTS: Final[Mapping[str, Right]] = {
    NAMESPACES: Right(
        _makes_namespaces,
        "let users make namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0)",
    ),
    TRACING: Right(_traces, "let users trace their processes (sysctl kernel.yama.ptrace_scope=0)"),
    ROOT: Right(_is_root, "run make test as root"),
}


@cache
def available(need: str) -> bool:
    """
    Whether this process has *need*: one of ``RIGHTS``, or a program of the tables above.

    Raises:
        ValueError: It is neither; a misspelled need would never be met.
    """
    if need in RIGHTS:
        return RIGHTS[need].granted()
    if not packages_of([need]):
        raise ValueError(f"tests/tools.py does not know: {need}")
    return shutil.which(need) is not None


def packages_of(needs: Iterable[str]) -> list[str]:
    """The Debian packages of the programs among *needs*, sorted."""
    known = {**PACKAGES, **ROOT_PACKAGES}
    return sorted({known[need] for need in needs if need in known})


def advice(needs: Iterable[str]) -> str:
    """How *needs* are met; empty where nothing is known to help."""
    needs = set(needs)
    packages = packages_of(needs)
    steps = [f"sudo apt-get install {' '.join(packages)}"] if packages else []
    steps += [right.remedy for name, right in RIGHTS.items() if name in needs]
    return ", then ".join(steps)


def administrator() -> list[str] | None:
    """What precedes a command that root has to run; None if this account may not run it."""
    if _is_root():
        return []
    sudo = ["sudo", "-n"]
    if not shutil.which("sudo"):
        return None
    allowed = subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0
    return sudo if allowed else None


def install(packages: Sequence[str]) -> None:
    """
    Install Debian *packages*.

    Raises:
        subprocess.CalledProcessError: apt-get failed, and has said why.
    """
    prefix = administrator()
    if prefix is None or not shutil.which("apt-get"):
        return
    print(f"Installing what the tests need: {' '.join(packages)} ...", flush=True)
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    subprocess.run([*apt, "update"], check=True)
    options = ["-o", "Dpkg::Use-Pty=0", "install", "--yes", "--no-install-recommends"]
    subprocess.run([*apt, *options, *packages], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Install what is missing; the tests run in any case, without those that still lack a tool."""
    missing = packages_of(name for name in PACKAGES if not available(name))
    if not missing:
        return
    try:
        install(missing)
    except subprocess.CalledProcessError as error:
        print(f"Not installed: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
