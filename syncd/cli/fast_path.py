"""
The ``syncd`` command: answers the most frequent calls without importing the command line.

Only the bare commands that a health check or a script runs are answered here. For everything else,
and whenever an error occurs, the regular command runs, so no error is reported here.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from syncd.config.locations import state_dir_of
from syncd.core.exit_codes import INTERRUPTED
from syncd.errors import AccessDenied, SyncdError
from syncd.formatting import printable, time_text

if TYPE_CHECKING:
    from syncd.cli.tables import Item

STUCK_S = 900.0
"""Seconds without progress after which syncd counts as stuck: the slowest request takes 11 minutes."""

COLOR_VARIABLES = frozenset({"FORCE_COLOR", "TTY_COMPATIBLE"})

HELP = "help.txt"
HELP_COLUMNS = 80
"""The help page is formatted for a terminal of at least this width."""


def entry() -> NoReturn:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the token
    arguments = sys.argv[1:]
    try:
        code = answer(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("\nsyncd: interrupted; progress is kept\n")
        code = INTERRUPTED
    if code is not None:
        sys.exit(code)
    from syncd.cli.main import leave, status_of

    leave(status_of(arguments))


def answer(arguments: Sequence[str]) -> int | None:
    """Print the output of a bare command and return its exit code; None if it is not handled here."""
    try:
        code, text = _output(arguments)
        sys.stdout.write(text)
        sys.stdout.flush()
    except Exception:  # the regular command meets the same error and reports it
        return None
    return code


def _output(arguments: Sequence[str]) -> tuple[int | None, str]:
    match arguments:
        case ["--help" | "-h"] if _is_wide():
            return 0, help_page()
        case ["health"]:
            return health(_state_dir)
        case ["status"] if not (sys.stdout.isatty() or COLOR_VARIABLES & os.environ.keys()):
            from syncd.cli.tables import render

            return 0, render(status(_state_dir()))
        case ["status", "--json"]:
            return 0, status_json(_state_dir())
        case _:
            return None, ""


def _state_dir() -> str:
    return state_dir_of(None, None, os.environ)


def help_page() -> str:
    """Return the output of ``syncd --help``, which ``make docs`` writes to a file."""
    with open(os.path.join(os.path.dirname(__file__), HELP), encoding="utf-8") as file:
        return file.read()


def _is_wide() -> bool:
    """Return whether stdout has the width of the help page, or is not a terminal."""
    if "COLUMNS" in os.environ:
        return False
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns >= HELP_COLUMNS
    except OSError:
        return True


def health(find_state_dir: Callable[[], str]) -> tuple[int, str]:
    """Return exit code and text of ``syncd health``. Raises ``AccessDenied``."""
    try:
        healthy, text = _check_health(find_state_dir())
    except AccessDenied:
        raise
    except SyncdError as error:
        healthy, text = False, str(error)
    return (0, f"healthy: {text}\n") if healthy else (1, f"unhealthy: {text}\n")


def _check_health(state_dir: str) -> tuple[bool, str]:
    from syncd.cli import daemon_client

    shown = printable(state_dir)
    if not daemon_client.is_running(state_dir):
        return False, f"syncd is not running on {shown}"
    if daemon_client.socket_of(state_dir) is None:
        # It is just starting, or runs with --once: only the lock shows that it runs.
        return True, f"syncd is running on {shown}, without a socket"
    live = daemon_client.get(state_dir, "/live")
    at_work = f"files in progress: {live['running']}"
    if live["running"] and live["idle_s"] > STUCK_S:
        since = time_text(int((time.time() - live["idle_s"]) * 1000))
        return False, f"no progress since {since}, {at_work}; see: syncd status"
    return True, f"syncd is running on {shown}, {at_work}"


def status(state_dir: str, everything: bool = False) -> "Iterator[Item]":
    """Return the output of ``syncd status``; *everything*: list all files. Raises ``StateError``."""
    from syncd.cli.status_data import read_summary
    from syncd.cli.status_text import LISTED, status_text

    registered, to_do = (None, None) if everything else (0, LISTED)
    summary = read_summary(state_dir, registered=registered, to_do=to_do)
    return status_text(summary, now_ms=time.time_ns() // 1_000_000)


def status_json(state_dir: str) -> str:
    """Return the output of ``syncd status --json``. Raises ``StateError``."""
    import json

    from syncd.cli.status_data import status_document

    return f"{json.dumps(status_document(state_dir), indent=2)}\n"
