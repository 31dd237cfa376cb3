"""
Logging: one line for each event of syncd and of its libraries, without secrets.

One formatter removes credentials from all values and exception texts and escapes control characters. The
handler limits the number of lines.
"""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from syncd.monitoring.log_limiter import LogLimiter
from syncd.types import printable

HIDDEN = "***"

# A key must not be part of a longer word ("mask-...", "risk-..."). Each pattern runs in linear time: no
# match can start inside the text of a failed one, or it fails within a few characters.
_SECRETS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # pydantic quotes a wrong value with its middle cut out, so the secret has no recognisable form.
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
# Matches every text that contains a secret, and few others: a fast path for ordinary lines.
_SUSPECT = re.compile(
    r"(?i)[dsa]k-[a-z0-9_-]{6}|ey[\w-]{8}|bearer|authorization|://|x-(?:amz|goog)-|input_value="
)
# Escapes that end in a letter, such as a colour, a backslash escape of repr, or %0A. They separate words.
_ESCAPE = re.compile(
    r"((?:\x1b|\\x1b)\[[0-?]*[ -/]*[@-~]|\\(?:[abfnrtv]|x[0-9a-f]{2}|u[0-9a-f]{4})|%[0-9A-Fa-f]{2})"
)
_SECRET_NAMES = re.compile(r"(?i)authorization|password|secret|token|cookie|device_code")
_MANY_LINES = frozenset({"exception", "stack"})
# The first three log URLs with their signatures.
_QUIET = ("httpx", "httpcore", "uvicorn.access", "apscheduler")
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))  # sd-daemon(3)


def scrub(text: str) -> str:
    """Return *text* without keys, tokens, Authorization values, URL users and URL queries."""
    if not _SUSPECT.search(text):
        return text
    return "".join(map(_without_secrets, _ESCAPE.split(_without_secrets(text))))


def _without_secrets(text: str) -> str:
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether *stream* is the journal. See ``$JOURNAL_STREAM`` in systemd.exec(5)."""
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
    Send all logs to *stream* (stderr by default) and replace any earlier configuration.

    Args:
        format: ``auto`` is ``console`` on a terminal or in the journal, and ``json`` otherwise.
        journal: Whether lines get a priority prefix; None: if *stream* is the journal.
    """
    stream = stream or sys.stderr
    journal = is_journal(stream, os.environ) if journal is None else journal
    terminal = stream.isatty()
    console = format == "console" or (format == "auto" and (terminal or journal))
    renderer: list[Processor] = [structlog.processors.JSONRenderer()]
    if console:
        plain = structlog.dev.plain_traceback
        text = structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=plain)
        renderer = [_drop_timestamp, text] if journal else [text]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_COMMON,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,  # plain tracebacks: no local variables
            _clean,
            *renderer,
        ],
    )
    handler = (_JournalHandler if journal else _Handler)(stream, now_s)
    handler.setFormatter(formatter)
    logging.raiseExceptions = False  # a record that cannot be formatted would print its arguments
    root = logging.getLogger()
    for handler_before in root.handlers:
        if isinstance(handler_before, _Handler):
            handler_before.report_suppressed()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _drop_timestamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The journal adds timestamps itself."""
    event.pop("timestamp", None)
    return event


class _Handler(logging.StreamHandler[TextIO]):
    """Writes a limited number of lines; see ``LogLimiter``."""

    def __init__(self, stream: TextIO, now_s: Callable[[], float]) -> None:
        super().__init__(stream)
        self._now_s = now_s
        self._limiter = LogLimiter(now_s())
        self._reporting = False  # like the limiter guarded by the handler's lock

    def emit(self, record: logging.LogRecord) -> None:
        if self._reporting:
            super().emit(record)
            return
        event, trouble = _subject(record)
        now_s = self._now_s()
        self._report(self._limiter.suppressed(now_s))
        severe = record.levelno >= logging.WARNING
        if self._limiter.admit(event, now_s, trouble=trouble if severe else None):
            super().emit(record)

    def report_suppressed(self) -> None:
        """Report all lines that were suppressed since the last report."""
        with self.lock or contextlib.nullcontext():
            self._report(self._limiter.suppressed(self._now_s(), at_once=True))

    def close(self) -> None:
        self.report_suppressed()
        super().close()

    def _report(self, lines: Mapping[str, int]) -> None:
        if not lines:
            return
        self._reporting = True
        try:
            # The level is error, so that no setting hides it.
            structlog.get_logger("syncd.log").error("log.suppressed", lines=dict(lines))
        finally:
            self._reporting = False


def _subject(record: logging.LogRecord) -> tuple[str, str]:
    """Return the event of a line, and the event with its reason but without other fields."""
    if not isinstance(record.msg, Mapping):
        return record.name, f"{record.name}: {record.msg}"
    event = str(record.msg.get("event"))
    reason = record.msg.get("reason", record.msg.get("error"))
    return event, f"{event}: {reason}"


class _JournalHandler(_Handler):
    """Adds the priority ``<n>`` to every line, so that the journal keeps records together."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = next(f"<{n}>" for level, n in _PRIORITIES if record.levelno >= level)
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


def _clean(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {_text(key): _cleaned(key, value) for key, value in event.items()}


def _cleaned(key: str, value: object) -> object:
    """Return *value* as plain data that is safe to show."""
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
