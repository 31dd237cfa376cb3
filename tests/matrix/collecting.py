"""A pytest plugin that prints the cells that tests are marked with, and the names of all tests."""

import re

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        for mark in item.iter_markers("cell"):
            for name in mark.args:
                print(f"cell {name}")
        if isinstance(item, pytest.Function):
            print("test", _name(item.nodeid))


def _name(nodeid: str) -> str:
    """Return the names of class and test, and the row that a parameter id starts with."""
    path, _, parameters = nodeid.partition("[")
    row = re.match(r"[IR][0-9]{2}(?=[-\]])", parameters)
    return "_".join([*path.split("::")[1:], *([row[0]] if row else [])])
