import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from syncd.monitoring import log

CANARIES = {
    "device": "dk-CANARY_device1",
    "runtime": "sk-CANARY_runtime",
    "agent": "ak-CANARY_agent1",
    "jwt": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJDQU5BUlkifQ.CANARY_signature",
    "bearer": "Authorization: Bearer CANARYopaque",
    "basic": "authorization=Basic CANARYopaque",
    "headers": "{'Authorization': 'CANARY opaque'}",
    "url": "https://s3.example/bucket/a.safetensors?X-Amz-Date=1&X-Amz-Signature=CANARY",
    "target": "PUT /bucket/key?partNumber=1&X-Amz-Credential=CANARY/eu&X-Amz-Signature=CANARY HTTP",
    "cut": '"X-Amz-Security-Token": "CANARY"',
    "coloured": "\x1b[1mdk-CANARY_device2",
    "shown": repr(["\ndk-CANARY_device3", "\x1b[1msk-CANARY_runtime2"]),
    "encoded": "key%3Ddk-CANARY_device4",
    "quoted": "[type=int_parsing, input_value='http://h/...CANARY', input_type=str]",
    "user": "http://proxyuser:CANARY@proxy.example:3128/",
}
HOSTILE = "lora\x1b]0;CANARYTITLE\x07\x9b2J\r\nforged line\udcff"

Format = Literal["console", "json"]


class OutOfLuck(Exception):
    pass


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    quiet = {
        name: logging.getLogger(name).level for name in ("httpx", "httpcore", "uvicorn.access")
    }
    yield
    root.handlers[:], root.level, logging.raiseExceptions = before
    for name, level in quiet.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def written(format: Format, say: Callable[[], object], *, journal: bool | None = None) -> str:
    stream = io.StringIO()
    log.configure(format=format, level="debug", stream=stream, journal=journal)
    say()
    return stream.getvalue()


def fail(text: str) -> None:
    local_secret = "CANARY in a local variable"
    raise OutOfLuck(text if local_secret else "")


def by_structlog_value(canary: str) -> None:
    structlog.get_logger("syncd").info("part.uploaded", answer=canary, nested=[{"a": (canary,)}])


def by_structlog_event(canary: str) -> None:
    structlog.get_logger("syncd").warning(canary)


def by_structlog_context(canary: str) -> None:
    with structlog.contextvars.bound_contextvars(rel_path=canary):
        structlog.get_logger("syncd").info("job.claimed")


def by_structlog_error(canary: str) -> None:
    structlog.get_logger("syncd").error(
        "job.failed", error=OutOfLuck(canary), raw=os.fsencode(canary)
    )


def by_structlog_exception(canary: str) -> None:
    try:
        fail(canary)
    except OutOfLuck:
        structlog.get_logger("syncd").exception("job.failed")


def by_stdlib_arguments(canary: str) -> None:
    logging.getLogger("foreign.library").warning("request: %s", canary)


def by_stdlib_exception(canary: str) -> None:
    try:
        try:
            fail(canary)
        except OutOfLuck as error:
            raise RuntimeError(f"again {canary}") from error
    except RuntimeError:
        logging.getLogger("foreign.library").exception("failed", stack_info=True)


WAYS = [
    by_structlog_value,
    by_structlog_event,
    by_structlog_context,
    by_structlog_error,
    by_structlog_exception,
    by_stdlib_arguments,
    by_stdlib_exception,
]


@pytest.mark.parametrize("format", ["console", "json"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
@pytest.mark.parametrize("canary", CANARIES.values(), ids=CANARIES.keys())
def test_I22_no_secret_is_logged(canary: str, way: Callable[[str], None], format: Format) -> None:
    text = written(format, lambda: way(canary))

    assert text.strip()
    assert "CANARY" not in text


@pytest.mark.parametrize("format", ["console", "json"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
def test_control_characters_are_escaped(way: Callable[[str], None], format: Format) -> None:
    text = written(format, lambda: way(HOSTILE))

    assert text.strip()
    assert not [c for c in text if c != "\n" and not c.isprintable()]
    if format == "json":
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize("format", ["console", "json"])
def test_I22_values_of_secret_names_are_hidden(format: Format) -> None:
    text = written(
        format,
        lambda: structlog.get_logger().info(
            "auth.read",
            token="CANARY",
            headers={"Authorization": "CANARY"},
            kept=SecretStr("CANARY"),
        ),
    )

    assert text.count("***") >= 3
    assert "CANARY" not in text


def test_ordinary_text_is_not_hidden() -> None:
    said = [
        "loras/mask-detection_v2.safetensors",
        "realisticVision.v60B1_inpainting.safetensors",
        "task-123456789 has ended",
        "https://cloud.example/api/v1/models 403",
        "authorization failed at the object store",
    ]

    assert [log.scrub(text) for text in said] == said
    assert log.scrub(CANARIES["url"]) == "https://s3.example/bucket/a.safetensors?…"


def test_json_line_carries_event_level_logger_and_fields() -> None:
    text = written("json", lambda: structlog.get_logger("syncd").info("job.claimed", attempt=2))

    line = json.loads(text)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "job.claimed", "level": "info", "logger": "syncd", "attempt": 2}


def test_traceback_keeps_its_lines_on_the_console() -> None:
    text = written("console", lambda: by_stdlib_exception("reason"))

    assert ".OutOfLuck: reason\n" in text
    assert text.endswith("\nRuntimeError: again reason\n")
    assert "local variable" not in text


@pytest.mark.parametrize("name", ["httpx", "httpcore", "httpcore.http11", "uvicorn.access"])
def test_loggers_of_urls_write_warnings_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # An earlier server in this process may have disabled propagation.
    monkeypatch.setattr(logging.getLogger(name), "propagate", True)

    def say() -> None:
        logging.getLogger(name).info("GET https://h/")
        logging.getLogger(name).warning("heard")

    text = written("json", say)

    assert [json.loads(line)["event"] for line in text.splitlines()] == ["heard"]


def test_record_that_cannot_be_formatted_prints_no_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = written("json", lambda: logging.getLogger().warning("%d %d", "CANARY"))

    assert "CANARY" not in text + capsys.readouterr().err


def test_journal_lines_carry_their_priority_and_no_timestamp() -> None:
    def say() -> None:
        structlog.get_logger().debug("d")
        structlog.get_logger().info("i")
        logging.getLogger().warning("w")
        by_stdlib_exception("reason")

    lines = written("console", say, journal=True).splitlines()

    assert [line[:3] for line in lines[:3]] == ["<7>", "<6>", "<4>"]
    assert len(lines) > 10
    assert {line[:3] for line in lines[3:]} == {"<3>"}
    assert lines[1].startswith("<6>[info")


def test_journal_is_known_by_device_and_inode() -> None:
    reading, writing = os.pipe()
    with open(reading), open(writing, "w") as stream:
        status = os.fstat(stream.fileno())
        ours = f"{status.st_dev}:{status.st_ino}"

        assert log.is_journal(stream, {"JOURNAL_STREAM": ours})
        assert not log.is_journal(stream, {"JOURNAL_STREAM": ours + "1"})
        assert not log.is_journal(stream, {})
    assert not log.is_journal(io.StringIO(), {"JOURNAL_STREAM": ours})


def test_auto_format_depends_on_terminal_and_journal() -> None:
    def first_line(stream: io.TextIOBase, journal: bool) -> str:
        log.configure(stream=stream, journal=journal)  # type: ignore[arg-type]
        structlog.get_logger().info("ready")
        if isinstance(stream, io.StringIO):
            return stream.getvalue()
        return os.read(controller, 1000).decode()

    controller, terminal = os.openpty()
    with open(terminal, "w", buffering=1) as tty:
        on_terminal = first_line(tty, journal=False)
    os.close(controller)

    assert "ready" in on_terminal
    assert not on_terminal.startswith("{")
    assert first_line(io.StringIO(), journal=True).startswith("<6>[info")
    assert json.loads(first_line(io.StringIO(), journal=False))["event"] == "ready"


@pytest.mark.parametrize(
    "pattern", [each for each, _ in log._SECRETS], ids=lambda each: each.pattern[:20]
)
@given(st.data())
def test_I22_fast_path_matches_every_secret(pattern: re.Pattern[str], data: st.DataObject) -> None:
    assert log._SUSPECT.search(data.draw(st.from_regex(pattern)))
