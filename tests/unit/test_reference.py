"""The pages that are made from the sources are current, complete and well-formed."""

import json
import re
import subprocess

import click
import pytest

from docs import reference
from syncd.cli.main import COMMANDS
from syncd.config.settings import KEYS, VARIABLES
from syncd.types import Event, FileState, Remark, State


def test_the_pages_are_as_the_sources_make_them() -> None:
    stale = [
        name
        for name, text in reference.pages().items()
        if (reference.TOP / name).read_text("utf-8") != text
    ]

    assert stale == [], "run: make docs"


def test_every_event_says_what_it_means() -> None:
    meanings = reference.meanings_in((reference.TOP / reference.EVENTS).read_text("utf-8"))

    assert meanings.keys() == reference.logged().keys()
    assert [event for event, meaning in meanings.items() if not meaning] == []


def test_events_are_read_from_the_calls_with_levels_and_fields() -> None:
    logged = reference.logged()

    assert logged["job.failed"].levels == {"error"}
    assert list(logged["job.failed"].fields) == ["kind", "error", "wait_s", "advice"]
    assert logged["watch.event_lost"].levels == {"error"}
    assert "log.suppressed" in logged


def test_every_setting_is_told_with_its_variable_and_what_it_is_for() -> None:
    told = reference.settings()

    assert [each.key for each in told] == list(KEYS)
    assert [each for each in told if not each.meaning] == []
    text = reference.configuration()
    assert [name for name in VARIABLES if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("key", "values", "default"),
    [
        ("models_dir", "path", ""),
        ("upload.files", "whole number 1 to 16", "2"),
        ("api.calls_per_s", "number above 0, at most 1000", "10"),
        ("scan.symlinks", "follow, within_roots, skip", "follow"),
        ("settle.read_lease", "true, false", "true"),
        ("limits.max_file_size", "size from 1", ""),
        ("network.storage_hosts", "list", ""),
        ("naming.map", "table", ""),
        ("network.proxy", "text", ""),
    ],
)
def test_values_and_defaults_are_told_in_words(key: str, values: str, default: str) -> None:
    (each,) = [each for each in reference.settings() if each.key == key]

    assert (each.values, each.default) == (values, default)


@pytest.mark.needs("groff")
def test_the_manual_page_is_one_that_troff_takes() -> None:
    checked = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Tutf8", reference.TOP / reference.MAN],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert checked.stderr == ""


CODES = ["0", "1", "2", "66", "70", "74", "75", "77", "78", "130", "143"]


@pytest.mark.needs("groff")
def test_the_manual_page_knows_every_command_option_setting_and_exit_code() -> None:
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


def test_the_operators_page_knows_every_state_hold_and_exit_code() -> None:
    text = (reference.TOP / "docs/operate.md").read_text("utf-8")
    schema = (reference.TOP / "syncd/store/migrations/0001_initial.sql").read_text("utf-8")
    (kinds,) = re.findall(r"kind +TEXT +PRIMARY KEY CHECK \(kind IN \(([^)]*)\)", schema)
    holds = [*re.findall(r"'(\w+)'", kinds), "state"]

    assert [state for state in (*FileState, *holds) if f"| `{state}` |" not in text] == []
    assert ", ".join(code for code, _ in reference.exit_codes()).split(", ") == CODES
    assert [name for name in COMMANDS if f"syncd {name}" not in text] == []


@pytest.mark.parametrize("name", ["file", "history", "queue", "status"])
def test_a_schema_knows_every_state_and_event(name: str) -> None:
    text = (reference.TOP / f"docs/schemas/{name}.schema.json").read_text("utf-8")
    defined = json.loads(text)["$defs"]
    state, event = defined.get("state"), defined.get("event")

    assert state is None or set(state["enum"]) == set(FileState)
    if event is not None:
        members = event["properties"]
        assert set(members["event"]["enum"]) == {*Event, *Remark, None}
        assert set(members["to_state"]["enum"]) == {*State}
        assert set(members["from_state"]["enum"]) == {*State, None}
