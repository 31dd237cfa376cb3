"""Tests whose needs are not met are skipped, and a run says so in its last line."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from tests.tools import advice, available


def skip_without_needs(item: pytest.Item) -> None:
    """Skip *item* unless everything that its marks ``needs`` name is available."""
    needs = (need for mark in item.iter_markers("needs") for need in mark.args)
    lacking = sorted({need for need in needs if not available(need)})
    if lacking:
        item.user_properties.append(("lacking", lacking))
        item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(lacking)}"))


class LeftOut:
    """The skipped tests of a run, by what each lacks."""

    def __init__(self, skipped: Sequence[pytest.TestReport]) -> None:
        self._tests = len(skipped)
        self._lacking = Counter(need for report in skipped for need in _lacking(report))

    def __bool__(self) -> bool:
        return self._tests > 0

    def lines(self) -> Iterator[str]:
        """One line for each need, with the number of tests that lack it."""
        for need, tests in sorted(self._lacking.items()):
            yield f"{tests:>5}  {need}"

    def last_line(self) -> str:
        """What is missing, and how to add it."""
        needs = ", ".join(sorted(self._lacking))
        steps = advice(self._lacking)
        remedy = f" To run them: {steps}." if steps else ""
        return f"INCOMPLETE: {self._tests} skipped, for lack of {needs}.{remedy}"


def _lacking(report: pytest.TestReport) -> list[str]:
    """The needs that were not met, or the reason that the test itself gave."""
    properties = dict(report.user_properties)
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    lacking: list[str] = list(properties.get("lacking", [reason.removeprefix("Skipped: ")]))  # type: ignore[call-overload]
    return lacking
