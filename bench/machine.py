"""Description of the machine, without its name."""

import os
import platform
from importlib import metadata
from pathlib import Path

from bench.scenario import GIB


def description() -> dict[str, str]:
    """Return the properties that influence the results."""
    return {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "SHA instructions": "yes" if "sha_ni" in _cpuinfo("flags").split() else "no",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.0f} GiB",
        "kernel": ".".join(platform.release().split(".")[:2]),
        "file system": _file_system(),
        "congestion control": _first("/proc/sys/net/ipv4/tcp_congestion_control"),
        "Python": platform.python_version(),
        "httpx": metadata.version("httpx"),
    }


def sentence(machine: dict[str, str]) -> str:
    """Return the description on one line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items()) + "."


def _processor() -> str:
    return _cpuinfo("model name") or platform.machine()


def _cpuinfo(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def _first(path: str) -> str:
    try:
        return Path(path).read_text("ascii").split()[0]
    except OSError:
        return "unknown"


def _file_system() -> str:
    from syncd.fs.mounts import mount_of

    return mount_of("/tmp").fs_type  # noqa: S108
