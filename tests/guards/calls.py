"""What ``syncd --once`` asks of the kernel, as strace sees it."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.integration.harness import COMMAND, PROJECT, Home

RUN_S = 120.0
STAT = frozenset({"newfstatat", "statx", "stat", "lstat"})
READ = frozenset({"read", "pread64", "preadv", "preadv2", "readv"})
OPEN = frozenset({"open", "openat"})
SEND = frozenset({"sendto", "sendmsg", "sendfile", "write", "writev"})
SYNC = frozenset({"fsync", "fdatasync"})
CONNECT = frozenset({"connect"})
TRACED = sorted(STAT | READ | OPEN | SEND | SYNC | CONNECT)

# A call may be cut in two where threads interleave; its arguments stand in the first half, its
# result in the second, which strace writes for the same thread.
_LINE = re.compile(
    r"(?P<thread>\d+) +(?:(?P<name>\w+)\((?P<rest>.*)|<\.\.\. (?P<again>\w+) resumed>(?P<more>.*))"
)
_RESULT = re.compile(r"\) += (?P<result>-?\d+)")


@dataclass(frozen=True, slots=True)
class Made:
    """A system call that ended: *arguments* as strace writes them, paths beside descriptors."""

    name: str
    arguments: str
    result: int


class Calls:
    """All that a command made."""

    def __init__(self, made: list[Made]) -> None:
        self._made = made

    def of(self, names: frozenset[str], about: str = "") -> list[Made]:
        """Calls of these names whose arguments mention *about*."""
        return [call for call in self._made if call.name in names and about in call.arguments]

    def connects(self, port: int) -> int:
        """Connections to a port that were begun."""
        return len(self.of(CONNECT, f"htons({port})"))

    def connects_at_all(self) -> int:
        """To any port."""
        return len(self.of(CONNECT, "htons("))


def once(home: Home, folder: Path) -> Calls:
    """
    ``syncd --once`` under strace, to its end.

    Raises:
        AssertionError: It did not end with 0.
    """
    log = folder / "strace.log"
    traced = ["strace", "-f", "-yy", "-s", "0", "-e", f"trace={','.join(TRACED)}", "-o", str(log)]
    done = subprocess.run(
        [*traced, *COMMAND, "--once"],
        cwd=PROJECT,
        env=home.environment(),
        capture_output=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return Calls(list(_made(log)))


def _made(log: Path) -> Iterator[Made]:
    begun: dict[str, tuple[str, str]] = {}
    for line in log.read_text("utf-8", "replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, name, rest = match["thread"], match["name"], match["rest"]
        if name is None:
            name, rest = begun.pop(thread, (match["again"], ""))
            rest += match["more"]
        elif rest.endswith("<unfinished ...>"):
            begun[thread] = (name, rest)
            continue
        result = _RESULT.search(rest)
        if result is not None:
            yield Made(name, rest, int(result["result"]))
