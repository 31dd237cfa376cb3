"""A pytest plugin that tells which tests are marked with which cell, one line each."""

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        for mark in item.iter_markers("cell"):
            for name in mark.args:
                print(f"cell {name}")
