"""The generated pages are current, complete and well-formed."""

import json
import re
import subprocess

import click
import pytest

from docs import reference
from syncd.cli.main import COMMANDS
from syncd.config.settings import KEYS, VARIABLES
from syncd.types import Event, FileState, HoldKind, Remark, State


def test_generated_pages_are_current() -> None:
    stale = [
        name
        for name, text in reference.pages().items()
        if (reference.TOP / name).read_text("utf-8") != text
    ]

    assert stale == [], "run: make docs"


def test_every_event_has_a_meaning() -> None:
    meanings = reference.meanings_in((reference.TOP / reference.EVENTS).read_text("utf-8"))

    assert meanings.keys() == reference.logged().keys()
    assert [event for event, meaning in meanings.items() if not meaning] == []


def test_every_setting_has_a_variable_and_a_description() -> None:
    settings = reference.settings()

    assert [setting.key for setting in settings] == list(KEYS)
    assert [setting for setting in settings if not setting.meaning] == []
    text = reference.configuration()
    assert [name for name in VARIABLES if f"`{name}`" not in text] == []


@pytest.mark.needs("groff")
def test_man_page_has_no_troff_warnings() -> None:
    checked = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Tutf8", reference.TOP / reference.MAN],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert checked.stderr == ""


CODES = ["0", "1", "2", "66", "70", "74", "75", "77", "78", "130", "143"]


@pytest.mark.needs("groff")
def test_man_page_lists_every_command_option_setting_and_exit_code() -> None:
    shown = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", reference.TOP / reference.MAN],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    words = set(shown.replace(",", " ").split())

    assert {f"syncd {name}" for name in COMMANDS} <= {
        " ".join(line.split()[:2]) for line in shown.splitlines()
    }
    options = [
        option
        for entry in COMMANDS.values()
        for parameter in entry.load().params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    ]
    assert [option for option in options if option not in words] == []
    assert [key for key in KEYS if key not in words] == []
    assert set(CODES) <= words


def test_operate_page_lists_every_state_hold_exit_code_and_command() -> None:
    text = (reference.TOP / "docs/operate.md").read_text("utf-8")

    assert [state for state in (*FileState, *HoldKind) if f"| `{state}` |" not in text] == []
    assert ", ".join(code for code, _ in reference.exit_codes()).split(", ") == CODES
    assert [name for name in COMMANDS if f"syncd {name}" not in text] == []


def test_every_hold_is_in_the_metrics_page_and_the_schemas() -> None:
    metrics = (reference.TOP / "docs/monitoring/metrics.md").read_text("utf-8")
    (row,) = (line for line in metrics.splitlines() if line.startswith("| `syncd_hold` |"))
    listed = {
        name: set(re.findall(r'"kind": { "enum": \[(.*?)\] }', schema_text(name))[0].split(", "))
        for name in ("status", "webhook")
    }

    assert [kind for kind in HoldKind if f"`{kind}`" not in row] == []
    assert listed["status"] == {f'"{kind}"' for kind in HoldKind}
    own = {HoldKind.PAUSED, HoldKind.STATE}  # no message is sent for these
    assert listed["webhook"] == {f'"{kind}"' for kind in HoldKind if kind not in own}


def schema_text(name: str) -> str:
    return (reference.TOP / f"docs/schemas/{name}.schema.json").read_text("utf-8")


@pytest.mark.parametrize("name", ["file", "history", "queue", "status"])
def test_schema_lists_every_state_and_event(name: str) -> None:
    defined = json.loads(schema_text(name))["$defs"]
    state, event = defined.get("state"), defined.get("event")

    assert state is None or set(state["enum"]) == set(FileState)
    if event is not None:
        members = event["properties"]
        assert set(members["event"]["enum"]) == {*Event, *Remark, None}
        assert set(members["to_state"]["enum"]) == {*State}
        assert set(members["from_state"]["enum"]) == {*State, None}
