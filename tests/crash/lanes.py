"""Many small cases, several at once; one that fails says how to repeat it."""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

Case = TypeVar("Case")
Result = TypeVar("Result")

LANES = 2
ONLY = os.environ.get("SYNCD_ONLY")
"""One case as JSON, to repeat it."""


class Tried(AssertionError):
    """A case that failed."""


def each(
    attempt: Callable[[Case], Result],
    cases: Sequence[Case],
    request: pytest.FixtureRequest,
    *,
    lanes: int = LANES,
) -> list[Result]:
    """
    ``attempt`` on each of *cases*, so many at once; their number goes into the table at the end.

    Raises:
        Tried: One failed; the text says how to repeat it.
    """
    if ONLY is not None:
        cases = [json.loads(ONLY)]

    def one(case: Case) -> Result:
        try:
            return attempt(case)
        except Exception as error:
            command = f"SYNCD_ONLY='{json.dumps(case)}' python -m pytest '{request.node.nodeid}'"
            raise Tried(f"{error}\nrepeat with: {command}") from error

    started_s = time.monotonic()
    with ThreadPoolExecutor(lanes) as pool:
        futures = [pool.submit(one, case) for case in cases]
        try:
            results = [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)
    rate = len(cases) / (time.monotonic() - started_s)
    request.node.user_properties += [("cases", len(cases)), ("rate", rate)]
    return results
