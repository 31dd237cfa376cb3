"""
The answers that are asked for most, found without putting the command line together for them.

Only the bare words are answered here, as a health check or a script says them. With an option, or
when anything is amiss, the command itself answers; so nothing here has to say what went wrong.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from syncd.config.locations import state_dir_of
from syncd.errors import AccessDenied, SyncdError
from syncd.formatting import printable, time_text

if TYPE_CHECKING:
    from syncd.cli.tables import Told

WELL, UNWELL = 0, 1

STUCK_S = 900.0
"""Files under way that got no further for so long are stuck: the slowest answer is waited for eleven
minutes."""

RICH_VARIABLES = frozenset({"FORCE_COLOR", "TTY_COMPATIBLE"})
"""With one of these rich may draw for a terminal where there is none."""

HELP = "help.txt"
HELP_COLUMNS = 80
"""The help page is as it is on a screen of so many columns and more."""


def answer(arguments: Sequence[str]) -> int | None:
    """The exit code, once the answer is told; None: the command itself has to answer."""
    try:
        told = _told(arguments)
        if told is None:
            return None
        code, text = told
        sys.stdout.write(text)
        sys.stdout.flush()
    except Exception:  # met again on the long way, and told there as it should be
        return None
    return code


def _told(arguments: Sequence[str]) -> tuple[int, str] | None:
    match arguments:
        case ["--help" | "-h"] if _is_wide():
            return 0, help_page()
        case ["health"]:
            return health(_state_dir)
        case ["status"] if not (sys.stdout.isatty() or RICH_VARIABLES & os.environ.keys()):
            from syncd.cli import plain

            return 0, plain.text(status(_state_dir()))
        case ["status", "--json"]:
            return 0, status_json(_state_dir())
        case _:
            return None


def _state_dir() -> str:
    return state_dir_of(None, None, os.environ)


def help_page() -> str:
    """What ``syncd --help`` shows; ``make docs`` writes it."""
    with open(os.path.join(os.path.dirname(__file__), HELP), encoding="utf-8") as file:
        return file.read()


def _is_wide() -> bool:
    """Has stdout the columns that the help page was made for, as far as it has any?"""
    if "COLUMNS" in os.environ:
        return False
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns >= HELP_COLUMNS
    except OSError:
        return True


def health(find: Callable[[], str]) -> tuple[int, str]:
    """
    Exit code and text of ``syncd health``.

    Args:
        find: Tells the state directory, or raises ``SyncdError``.

    Raises:
        AccessDenied: This account may neither read the state directory nor use the socket.
    """
    try:
        code, said = _asked(find())
    except AccessDenied:
        raise
    except SyncdError as error:
        code, said = UNWELL, str(error)
    return code, f"{'well' if code == WELL else 'unwell'}: {said}\n"


def _asked(state_dir: str) -> tuple[int, str]:
    from syncd.cli.running import is_running

    shown = printable(state_dir)
    if not is_running(state_dir):
        return UNWELL, f"no syncd is running on {shown}"
    from syncd.cli import daemon_client

    if daemon_client.socket_of(state_dir) is None:
        # It has only just begun, or is a backfill: the lock is all there is to go by.
        return WELL, f"a syncd is at work on {shown}, and offers no socket to ask it more"
    live = daemon_client.ask(state_dir, "/live")
    if live["running"] and live["idle_s"] > STUCK_S:
        since = time_text(int((time.time() - live["idle_s"]) * 1000))
        return (
            UNWELL,
            f"no progress since {since}, files in progress: {live['running']}; see syncd status",
        )
    return WELL, f"a syncd is running on {shown}; files under way: {live['running']}"


def status(state_dir: str, everything: bool = False) -> "Iterator[Told]":
    """
    What ``syncd status`` tells, with *everything* of the files in the catalog as well.

    Raises:
        StateError: The store cannot be read.
    """
    from syncd.cli import tables
    from syncd.cli.reading import read_summary

    registered, on_the_way = (None, None) if everything else (0, tables.LISTED)
    summary = read_summary(state_dir, registered=registered, on_the_way=on_the_way)
    return tables.standing(summary, now_ms=time.time_ns() // 1_000_000)


def status_json(state_dir: str) -> str:
    """What ``syncd status --json`` tells. Raises what ``status`` raises."""
    from syncd.cli.reading import read_files

    return f"{read_files(state_dir).as_json()}\n"
