"""The answers that are found without the command line are those of the command line."""

import os
import subprocess

import pytest

from syncd.sandbox.server import Sandbox
from syncd.store.store import Store
from tests.integration.harness import COMMAND, PROJECT, Finished, Home

LONG_WAY = ("--log-level", "info")
"""An option that changes nothing here, but that the command line has to understand."""


def said(done: Finished) -> tuple[int, str, str]:
    return done.code, done.out, done.err


def both(home: Home, *args: str) -> tuple[tuple[int, str, str], tuple[int, str, str]]:
    return said(home.run(*args)), said(home.run(*LONG_WAY, *args))


@pytest.fixture
def told(home: Home, cloud: Sandbox) -> Home:
    """A tree of which something is in the catalog, something is not, and something is skipped."""
    home.sign_in(cloud)
    home.write("loras/one.safetensors", b"no model at all")
    home.write("loras/two.safetensors.part", b"x")
    home.write("loras/readme.md", b"x")
    home.let_age()
    home.once()
    return home


@pytest.mark.parametrize("args", [["status"], ["status", "--json"], ["health"]])
def test_with_and_without_a_store_both_ways_say_the_same(home: Home, args: list[str]) -> None:
    nothing = both(home, *args)
    Store(os.fspath(home.state)).close()
    empty = both(home, *args)

    assert nothing[0] == nothing[1]
    assert empty[0] == empty[1]


def test_both_ways_tell_of_a_tree_alike(told: Home) -> None:
    plain = both(told, "status")
    told.write("loras/a 模型.safetensors.part", b"x")
    told.let_age()
    told.once()
    wide = both(told, "status")

    assert plain[0] == plain[1]
    assert "Not in the catalog" in plain[0][1]
    assert "Skipped" in plain[0][1]
    assert wide[0] == wide[1]
    assert "a 模型.safetensors.part" in wide[0][1]


def test_a_reader_that_went_away_is_no_news(told: Home) -> None:
    for args in (["status"], ["health"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [*COMMAND, *args],
            cwd=PROJECT, env=told.environment(), stdout=writing, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(writing)

        assert (done.returncode, done.stderr) == (1, b"")
