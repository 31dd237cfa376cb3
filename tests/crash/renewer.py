"""
Runs ``syncd whoami`` in processes that may be killed, two of them at once if asked to.

Orders come as JSON lines on stdin, the exit codes go to stdout; see ``tests.crash.victim``.
"""

import gc
import itertools
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import syncd
import syncd.cli.whoami
from syncd.cli.main import status_of
from tests.crash.victim import FELL_OVER

PROGRAM = os.path.dirname(syncd.__file__) + os.sep


@dataclass(frozen=True, slots=True)
class Order:
    """
    One command.

    Args:
        out: What it says goes to files whose names begin so.
        kill_at: SIGKILL when this line (file below the program, number) is executed so often.
        twin: Another one runs at the same time, which nobody kills.
        count: Write how often each line of the program was executed.
        fork: False runs in this very process, so that what is imported late is there for all.
    """

    env: Mapping[str, str]
    out: str
    kill_at: tuple[str, int, int] | None = None
    twin: bool = False
    count: bool = False
    fork: bool = True


class LineCounter:
    """Counts the executions of each line of the program, in all threads."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()

    def start(self) -> None:
        """Count from here on, in this thread and in those begun later."""
        threading.settrace(self._on_call)
        sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._on_line if frame.f_code.co_filename.startswith(PROGRAM) else None

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.counts[frame.f_code.co_filename.removeprefix(PROGRAM), frame.f_lineno] += 1
        return self._on_line


class Killer:
    """Kills the process when a line is about to be executed for the n-th time."""

    def __init__(self, file: str, line: int, n: int) -> None:
        self._file, self._line, self._n = PROGRAM + file, line, n
        self._met = itertools.count(1)  # counts whole even with threads

    def start(self) -> None:
        """Wait for the moment, in this thread and in those begun later."""
        threading.settrace(self._on_call)
        sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._on_line if frame.f_code.co_filename == self._file else None

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and frame.f_lineno == self._line and next(self._met) == self._n:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._on_line


def _see(env: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)


def _become(order: Order, number: int) -> None:
    _see(order.env)
    fd = os.open(f"{order.out}.{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)


def _child(order: Order, number: int) -> int:
    _become(order, number)
    if order.kill_at is not None and number == 0:
        Killer(*order.kill_at).start()
    if not order.count:
        return status_of(["whoami", "--json"])
    counter = LineCounter()
    counter.start()
    code = status_of(["whoami", "--json"])
    sys.settrace(None)
    counts = [(file, line, n) for (file, line), n in counter.counts.items()]
    Path(order.out + ".lines").write_text(json.dumps(counts))
    return code


def _begun(order: Order, number: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = FELL_OVER
        try:
            code = _child(order, number)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return pid


def answer(order: Order) -> list[int]:
    """Carry out an order; the exit codes, negative for a signal."""
    if not order.fork:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            _see(order.env)
            return [status_of(["whoami", "--json"])]
    gc.freeze()  # else the child's collector copies every page it looks at
    pids = [_begun(order, number) for number in range(1 + order.twin)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(Order(**json.loads(line)))), flush=True)
