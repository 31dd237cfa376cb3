"""
A Python that tells what it does: a line for each thing that no syncd has to do.

``python -m tests.integration.watched FD FOLDERS COMMAND...`` writes to the descriptor FD what the
audit hook sees; FOLDERS, with colons between, are where writing is right. COMMAND is Python code.
"""

import ipaddress
import os
import sys
from typing import Any
from urllib.parse import unquote, urlsplit

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PROCESSES = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"}
)
CHANGES = {
    "os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2,
    "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1,
}  # fmt: skip
"""How many of the event's arguments are paths."""


class Watch:
    """The hook."""

    def __init__(self, fd: int, folders: list[str]) -> None:
        self._fd = fd
        self._folders = [os.path.realpath(folder) for folder in folders]

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self._is_wrong(event, args):
            os.write(self._fd, f"{event} {args!r}\n".encode(errors="replace"))

    def _is_wrong(self, event: str, args: tuple[Any, ...]) -> bool:
        if event in PROCESSES or event == "pickle.find_class":
            return True
        if event == "open":
            path, mode, flags = args
            writes = flags & WRITES if mode is None else set(mode) & set("wax+")
            return bool(writes) and not self._is_ours(path)
        if event == "sqlite3.connect":
            path = os.fsdecode(args[0])
            return not self._is_ours(unquote(urlsplit(path).path) if "file:" in path else path)
        if event in CHANGES:
            return not all(map(self._is_ours, args[: CHANGES[event]]))
        if event in ("socket.connect", "socket.sendto", "socket.bind"):
            return not self._is_near(args[1])
        return False

    def _is_ours(self, path: Any) -> bool:
        if isinstance(path, int) or path == os.devnull:
            return True  # a descriptor was an open before
        name = os.path.abspath(os.fsdecode(path))
        folder = os.path.realpath(os.path.dirname(name))  # a link itself is what is changed
        place = os.path.join(folder, os.path.basename(name))
        return any(f"{place}/".startswith(f"{allowed}/") for allowed in self._folders)

    def _is_near(self, address: Any) -> bool:
        if not isinstance(address, tuple):
            return self._is_ours(address)
        return ipaddress.ip_address(address[0]).is_loopback


def main() -> None:
    """Watch, then do what is asked."""
    fd, folders, code, *rest = sys.argv[1:]
    sys.argv = ["syncd", *rest]
    sys.addaudithook(Watch(int(fd), folders.split(":")))
    exec(compile(code, "<command>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
