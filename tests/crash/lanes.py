"""Many small cases, several at once; the error of one that fails says how to repeat it."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

Case = TypeVar("Case")
Result = TypeVar("Result")


def each(
    attempt: Callable[[Case], Result],
    cases: Sequence[Case],
    request: pytest.FixtureRequest,
    *,
    lanes: int = 2,
) -> list[Result]:
    """
    ``attempt`` on each of *cases*, *lanes* at once; a single lane runs in the caller's thread.

    ``SYNCD_ONLY`` is one case as JSON, to repeat it.
    """
    if only := os.environ.get("SYNCD_ONLY"):
        cases = [json.loads(only)]

    def one(case: Case) -> Result:
        try:
            return attempt(case)
        except Exception as error:
            command = f"SYNCD_ONLY='{json.dumps(case)}' python -m pytest '{request.node.nodeid}'"
            raise AssertionError(f"{error}\nrepeat with: {command}") from error

    if lanes == 1:
        return list(map(one, cases))
    with ThreadPoolExecutor(lanes) as pool:
        return list(pool.map(one, cases))
