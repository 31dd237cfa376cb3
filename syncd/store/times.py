"""
All stored times that are compared with the clock, and how they change when the clock is set.

The wall clock may be set while syncd runs, or between two runs. In the first case the step is known,
and the times move with it, so that each wait keeps its length. In the second case the step is not
known, and each time is bounded: it lies no further ahead of the clock than when it was written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from syncd.core.transfer.quota import hour_of
from syncd.store.db import Queries
from syncd.store.jobs import IN_DOUBT

_INTENTS = frozenset(
    {"complete_sent_at", "register_sent_at", "register_repeated_at", "change_sent_at"}
)
"""
Times of requests that may still take effect.

They never move backwards. An intent may be written between a step and its discovery; it would look an
hour old after a step of an hour, and the request would be repeated too early. So a backward step only
bounds them, and the wait starts again.
"""


@dataclass(frozen=True, slots=True)
class _Times:
    """
    Times of one table.

    Args:
        rows: The rows whose times matter (SQL).
        ahead: For each column, the milliseconds by which it may lie ahead of the clock (SQL).
    """

    table: str
    rows: str
    ahead: Mapping[str, str]

    def shifted(self) -> str:
        """The statement that moves the times by ``:step``."""
        moves = ", ".join(
            f"{column} = {column} + {'max(:step, 0)' if column in _INTENTS else ':step'}"
            for column in self.ahead
        )
        return f"UPDATE {self.table} SET {moves} WHERE {self.rows}"

    def bounded(self) -> str:
        """The statement that bounds how far each time lies ahead of ``:now``."""
        limits = ", ".join(
            f"{column} = min({column}, :now + max(0, coalesce({ahead}, 0)))"
            for column, ahead in self.ahead.items()
        )
        return f"UPDATE {self.table} SET {limits} WHERE {self.rows}"


_TIMES = (
    _Times(
        "job",
        "state IN ('queued', 'leased')",
        {
            "run_after": "run_after - updated_at",
            "body_sent_at": "0",
            "complete_sent_at": "0",
            "register_sent_at": "0",
            "register_repeated_at": "0",
            "updated_at": "0",
        },
    ),
    _Times("job", IN_DOUBT, {"register_sent_at": "0", "register_repeated_at": "0"}),
    _Times("job_attempt", "true", {"since": "0"}),
    _Times("hold", "true", {"since": "0", "probe_at": "probe_at - since"}),
    _Times("upload", "state = 'unwanted'", {"run_after": "run_after - updated_at", "updated_at": "0"}),
    _Times(
        "record",
        "retired_at IS NULL AND (gone_at IS NOT NULL OR replaced_at IS NOT NULL)",
        {
            "gone_at": "0",
            "retire_after": "retire_after - retire_sent_at",
            "retire_sent_at": "0",
        },
    ),
    _Times("record", "change_sent_at IS NOT NULL", {"change_sent_at": "0"}),
)  # fmt: skip


class Times(Queries):
    """Keeps the waits in the store independent of steps of the wall clock."""

    def shift(self, step_ms: int, now_ms: int) -> None:
        """
        Move the times after a step of the clock while syncd runs.

        Args:
            step_ms: The step in milliseconds, negative if backwards.
            now_ms: The clock after the step. It bounds times that were written after the step.
        """
        with self._db.transaction():
            for times in _TIMES:
                self._db.run(times.shifted(), {"step": step_ms})
            self._move_sent(lambda hour: hour + step_ms)
            self._bound(now_ms)

    def bound(self, now_ms: int) -> None:
        """Shorten each wait that is longer, counted from *now_ms*, than when it was written."""
        with self._db.transaction():
            self._bound(now_ms)

    def _bound(self, now_ms: int) -> None:
        for times in _TIMES:
            self._db.run(times.bounded(), {"now": now_ms})
        self._move_sent(lambda hour: min(hour, hour_of(now_ms)))

    def _move_sent(self, moved: Callable[[int], int]) -> None:
        """Assign the bytes of each hour to the hour that *moved* returns."""
        rows = self._db.all("SELECT hour, bytes FROM sent")
        self._db.run("DELETE FROM sent")
        self._db.run_many(
            "INSERT INTO sent (hour, bytes) VALUES (?, ?)"
            " ON CONFLICT (hour) DO UPDATE SET bytes = bytes + excluded.bytes",
            [(moved(row["hour"]), row["bytes"]) for row in rows],
        )
