"""A pytest plugin that prints the cells that tests are marked with, and the names of all tests."""

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        for mark in item.iter_markers("cell"):
            for name in mark.args:
                print(f"cell {name}")
        if isinstance(item, pytest.Function):
            print("test", "_".join(item.nodeid.partition("[")[0].split("::")[1:]))
