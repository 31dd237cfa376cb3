"""
Logs: one line an event, ours and other libraries' alike, without secrets.

Every record, from structlog or the standard library, goes through one formatter. There each value
and the text of each exception is scrubbed of credentials and its control characters are escaped: a
file name or a server's answer can neither leak a key nor drive somebody's terminal. The handler bounds
how much is written, and says what it left out.
"""

import contextlib
import hashlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from syncd import __version__
from syncd.monitoring.log_limiter import LogLimiter
from syncd.types import printable

HIDDEN = "***"

# A key inside a longer word is none ("mask-...", "risk-..."). Too much is hidden rather than too
# little: a file called ak-something-long loses part of its name in the log, and only there.
# Each pattern is linear in the text, whatever the text: no match can begin inside of what a failed
# one has read, or it fails within a few characters.
_SECRETS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # What pydantic quotes of a wrong value: cut in its middle, so that nobody knows a secret by its look.
    (re.compile(r"(?m)^(?>(.*?\binput_value=)).*(?=, input_type=)"), rf"\1{HIDDEN}"),
    (re.compile(r"(?<![A-Za-z0-9])(dk|sk|ak)-[A-Za-z0-9_-]{6,}+"), rf"\1-{HIDDEN}"),
    (re.compile(r"(?a)(?<![\w-])ey[\w-]{8,}+\.[\w-]++\.[\w-]++"), HIDDEN),
    (re.compile(r"(?i)\bbearer ++[!-~]{6,}+"), f"Bearer {HIDDEN}"),
    (re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(://)[^\s/?#'\"]*@"), rf"\1{HIDDEN}@"),
    (
        re.compile(r"(://[^\s?'\"<>]*+)(\?[^\s'\"<>]*+)?"),
        lambda url: url[1] if url[2] is None else f"{url[1]}?…",
    ),
    (
        re.compile(
            r"(?i)\b(x-(?:amz|goog)-(?:signature|credential|security-token)['\"]?\s*[=:]\s*['\"]?)"
            r"[^\s&'\"<>]+"
        ),
        r"\1…",
    ),
)
# What every one of these has in it, and hardly a line that is written.
_SUSPECT = re.compile(
    r"(?i)[dsa]k-[a-z0-9_-]{6}|ey[\w-]{8}|bearer|authorization|://|x-(?:amz|goog)-|input_value="
)
# What ends in a letter and is no part of the word behind it: a colour, an escape of repr, %0A.
_ESCAPE = re.compile(
    r"((?:\x1b|\\x1b)\[[0-?]*[ -/]*[@-~]|\\(?:[abfnrtv]|x[0-9a-f]{2}|u[0-9a-f]{4})|%[0-9A-Fa-f]{2})"
)
_SECRET_NAMES = re.compile(r"(?i)authorization|password|secret|token|cookie|device_code")
_MANY_LINES = frozenset({"exception", "stack"})
# The first three log whole URLs, signatures included; the last its own housekeeping.
_QUIET = ("httpx", "httpcore", "uvicorn.access", "apscheduler")
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))  # sd-daemon(3)


def scrub(text: str) -> str:
    """*text* without keys, tokens, Authorization values, URL users and URL queries."""
    if not _SUSPECT.search(text):
        return text
    return "".join(map(_without_secrets, _ESCAPE.split(_without_secrets(text))))


def _without_secrets(text: str) -> str:
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def digest(error: BaseException) -> str:
    """Eight hex digits for where and as what *error* arose: equal bugs, equal digits."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{os.path.basename(f.filename)}:{f.lineno}:{f.name}" for f in frames]
    story = "\n".join([__version__, type(error).__qualname__, *places])
    return hashlib.sha256(story.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Does *stream* go to the journal? See ``$JOURNAL_STREAM`` in systemd.exec(5)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def configure(
    *,
    format: Literal["auto", "console", "json"] = "auto",
    level: str = "info",
    stream: TextIO | None = None,
    journal: bool | None = None,
    now_s: Callable[[], float] = time.monotonic,
) -> None:
    """
    Send all logs to *stream*, replacing whatever was set up before.

    Args:
        format: ``auto`` is ``console`` on a terminal or in the journal, ``json`` elsewhere.
        level: debug, info, warning or error.
        stream: stderr unless given.
        journal: Whether lines get a priority prefix; None finds out.
        now_s: The clock by which lines are bounded.
    """
    stream = stream or sys.stderr
    journal = is_journal(stream, os.environ) if journal is None else journal
    terminal = stream.isatty()
    console = format == "console" or (format == "auto" and (terminal or journal))
    renderer = _console(colors=terminal, stamped=not journal) if console else _json()
    handler = (_JournalHandler if journal else _Handler)(stream, now_s)
    handler.setFormatter(_formatter(renderer))
    _configure_stdlib(handler, level)
    structlog.configure(
        processors=[*_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _configure_stdlib(handler: logging.Handler, level: str) -> None:
    logging.raiseExceptions = False  # a record that cannot be shown would print its raw arguments
    root = logging.getLogger()
    for before in root.handlers:
        if isinstance(before, _Handler):
            before.tell_left_out()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _formatter(renderer: list[Processor]) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_COMMON,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,  # plain tracebacks: no local variables
            _clean,
            *renderer,
        ],
    )


def _console(*, colors: bool, stamped: bool) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback
    )
    return [renderer] if stamped else [_drop_timestamp, renderer]


def _json() -> list[Processor]:
    return [structlog.processors.JSONRenderer()]


def _drop_timestamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The journal stamps each line itself."""
    event.pop("timestamp", None)
    return event


class _Handler(logging.StreamHandler[TextIO]):
    """Writes a bounded number of lines; see ``core.flood``."""

    def __init__(self, stream: TextIO, now_s: Callable[[], float]) -> None:
        super().__init__(stream)
        self._now_s = now_s
        self._flood = LogLimiter(now_s())
        self._telling = False  # guarded, like the flood, by the handler's own lock

    def emit(self, record: logging.LogRecord) -> None:
        if self._telling:
            super().emit(record)
            return
        event, said = _subject(record)
        now_s = self._now_s()
        self._tell(self._flood.left_out(now_s))
        severe = record.levelno >= logging.WARNING
        if self._flood.admit(event, now_s, trouble=said if severe else None):
            super().emit(record)

    def tell_left_out(self) -> None:
        """Say what was left out and not told yet: nothing comes after this."""
        with self.lock or contextlib.nullcontext():
            self._tell(self._flood.left_out(self._now_s(), at_once=True))

    def close(self) -> None:
        self.tell_left_out()
        super().close()

    def _tell(self, lines: Mapping[str, int]) -> None:
        if not lines:
            return
        self._telling = True
        try:
            # As an error, so that no level hides it.
            structlog.get_logger("syncd.log").error("log.suppressed", lines=dict(lines))
        finally:
            self._telling = False


def _subject(record: logging.LogRecord) -> tuple[str, str]:
    """What a line speaks of, and what it says of that but for what differs from case to case."""
    if not isinstance(record.msg, Mapping):
        return record.name, f"{record.name}: {record.msg}"
    event = str(record.msg.get("event"))
    reason = record.msg.get("reason", record.msg.get("error"))
    return event, f"{event}: {reason}"


class _JournalHandler(_Handler):
    """Prefixes each line with ``<n>``, or the journal would misfile all but a record's first."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = next(f"<{n}>" for level, n in _PRIORITIES if record.levelno >= level)
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


def _clean(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {_text(key): _cleaned(key, value) for key, value in event.items()}


def _cleaned(key: str, value: object) -> object:
    """*value* as plain data that is safe to show."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAMES.search(key):
        return HIDDEN
    if isinstance(value, Mapping):
        return {_text(str(k)): _cleaned(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(key, item) for item in value]
    if key in _MANY_LINES:
        return "\n".join(map(printable, scrub(str(value)).split("\n")))
    return _text(value if isinstance(value, str) else str(value) or repr(value))


def _text(value: str) -> str:
    return printable(scrub(value))


_COMMON: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
