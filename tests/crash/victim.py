"""
Runs the service in processes that may be killed: everything is imported once, then forked.

Orders come as JSON lines on stdin, one answer a line goes to stdout. A victim is a process of its
own with threads of its own; forking only saves the second that importing takes.
"""

import asyncio
import gc
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncd.cli.main import status_of
from syncd.cloud import validation
from syncd.config import loader
from syncd.daemon.service import Service
from syncd.errors import SyncdError
from syncd.monitoring import log
from syncd.monitoring.progress import Meter

ATTACHED_S = 60.0
LATEST_S = 0.2
"""Seconds that a lost register or complete may arrive late: the cloud here is done at once."""
FELL_OVER = 99


@dataclass(frozen=True, slots=True)
class Order:
    """
    One run of the service.

    Args:
        env: The ``SYNCD_`` variables.
        out: What the run says goes to files whose names begin so; its process id, too.
        fork: False runs in this very process, so that what is imported late is there for all.
        strace: Options: the run is watched from its first instruction; ``-f``: in all threads.
        acknowledge: Say each commit on a file of its own, once it has returned.
        command: The arguments of another command than ``--once``.
    """

    env: Mapping[str, str]
    out: str
    fork: bool = True
    strace: Sequence[str] | None = None
    acknowledge: bool = False
    command: Sequence[str] | None = None


def run(order: Order) -> int:
    """One ``syncd --once``, or another command; its exit code."""
    # Parts of a few KiB take the way of parts of 100 MiB, and hundreds of them fit into a minute.
    validation.PART_SIZE_MIN = 1
    with Path(order.out + ".log").open("a", encoding="utf-8") as stream:
        if order.command is not None:
            os.environ.clear()
            os.environ.update(order.env)
            with redirect_stdout(stream), redirect_stderr(stream):
                return status_of([*order.command])
        log.configure(format="json", level="info", stream=stream)
        loaded = loader.load(None, {}, order.env)
        service = Service(
            loaded.settings, loaded.credential, meter=Meter(), once=True, latest_s=LATEST_S
        )
        try:
            return asyncio.run(service.run())
        except SyncdError as error:
            stream.write(f"{error}\n")
            return error.exit_code


def acknowledging(out: str) -> None:
    """From here on, writers say each statement outside a transaction, COMMIT too, once it is done."""
    fd = os.open(out + ".acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    class Connection(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            cursor = super().execute(*args)
            if not self.in_transaction:
                os.write(fd, b"done\n")
            return cursor

        def executescript(self, script: str, /) -> sqlite3.Cursor:
            cursor = super().executescript(script)
            os.write(fd, b"done\n")
            return cursor

    plain: Any = sqlite3.connect

    def connect(*args: Any, **options: Any) -> Any:
        factory = {} if options.get("uri") else {"factory": Connection}
        return plain(*args, **options, **factory)

    sqlite3.connect = connect


def _child(order: Order) -> int:
    if order.acknowledge:
        acknowledging(order.out)
    return run(order)


def _forked(order: Order) -> int:
    """The exit code of a child, negative for a signal."""
    ready, go = os.pipe()
    gc.freeze()  # else the child's collector copies every page it looks at
    pid = os.fork()
    if pid == 0:
        code = FELL_OVER
        try:
            os.close(go)
            if os.read(ready, 1):  # else whoever was to say so has died
                code = _child(order)
        except BaseException as error:
            Path(order.out + ".fall").write_text(repr(error))
        finally:
            os._exit(code)
    Path(order.out + ".pid").write_text(str(pid))
    tracer = None if order.strace is None else _attached(order.strace, pid)
    os.write(go, b"!")
    os.close(ready)
    os.close(go)
    status = os.waitpid(pid, 0)[1]
    if tracer is not None:
        tracer.wait()
    return os.waitstatus_to_exitcode(status)


def _attached(options: Sequence[str], pid: int) -> subprocess.Popen[bytes]:
    tracer = subprocess.Popen(["strace", "-q", *options, "-p", str(pid)])
    status, deadline_s = Path(f"/proc/{pid}/status"), time.monotonic() + ATTACHED_S
    while "TracerPid:\t0" in status.read_text():
        assert tracer.poll() is None, "strace ended"
        assert time.monotonic() < deadline_s, "strace does not attach"
    return tracer


def answer(order: Order) -> int:
    """Carry out an order; the exit code, negative for a signal."""
    return _forked(order) if order.fork else run(order)


if __name__ == "__main__":
    for line in sys.stdin:
        print(answer(Order(**json.loads(line))), flush=True)
