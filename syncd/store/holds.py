"""Holds, what is known about a server, and how many bytes it received."""

import hashlib

from syncd.core.transfer.quota import hour_of, oldest_hour
from syncd.store.db import Queries
from syncd.store.outline import HoldRow, hold_of, holds_in
from syncd.types import Call, HoldKind

PAUSE_ADVICE = "To go on: syncd resume"


class Holds(Queries):
    """The hold table: one row for each active hold."""

    def put(
        self, kind: HoldKind, *, reason: str, advice: str | None, probe_at: int, now_ms: int
    ) -> HoldRow:
        """
        Begin a hold, or count a failed probe of it; ``since`` does not change.

        Before ``probe_at``, the failure is of a job that ran already: it is no probe, and can only
        delay the next one.
        """
        with self._db.transaction():
            row = self._db.one(
                "INSERT INTO hold (kind, since, reason, advice, probe_at) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (kind) DO UPDATE SET reason = excluded.reason, advice = excluded.advice,"
                " probe_at = max(probe_at, excluded.probe_at),"
                " probes = probes + (probe_at <= excluded.since) RETURNING *",
                (kind, now_ms, reason, advice, probe_at),
            )
        assert row is not None
        return hold_of(row)

    def pause(self, now_ms: int) -> None:
        """Begin the hold of ``syncd pause``; no effect if it exists."""
        self._db.run(
            "INSERT OR IGNORE INTO hold (kind, since, reason, advice, probe_at) VALUES (?, ?, ?, ?, ?)",
            (HoldKind.PAUSED, now_ms, "paused by syncd pause", PAUSE_ADVICE, now_ms),
        )

    def all(self) -> list[HoldRow]:
        """Return the active holds, oldest first."""
        return holds_in(self._db)

    def probe_now(self, now_ms: int) -> None:
        """Make every hold due for a probe, after a restart or with a new credential."""
        self._db.run("UPDATE hold SET probe_at = ?", (now_ms,))

    def clear(self, *kinds: HoldKind) -> list[HoldRow]:
        """End these holds; returns those that were active."""
        ended = [hold for hold in self.all() if hold.kind in kinds]
        if ended:
            self._db.run_many("DELETE FROM hold WHERE kind = ?", [(hold.kind,) for hold in ended])
        return ended


class Sent(Queries):
    """Bytes sent to the object store, by hour (its start, Unix ms)."""

    def by_hour(self) -> dict[int, int]:
        return {row["hour"]: row["bytes"] for row in self._db.all("SELECT * FROM sent")}

    def add(self, size: int, now_ms: int) -> None:
        """Count *size* bytes, and delete hours that no longer matter."""
        with self._db.transaction():
            self._db.run("DELETE FROM sent WHERE hour < ?", (oldest_hour(now_ms),))
            self._db.run(
                "INSERT INTO sent (hour, bytes) VALUES (?, ?)"
                " ON CONFLICT (hour) DO UPDATE SET bytes = bytes + excluded.bytes",
                (hour_of(now_ms), size),
            )


class Servers(Queries):
    """Routes that ever answered 2xx, and the storage host that each server used first."""

    def claim_state(self, base_url: str, team_id: str | None) -> tuple[str, str | None]:
        """
        Return the cloud and team that the records belong to: the first ones that syncd used.

        A device key names no team, so the first known team is kept.
        """
        with self._db.transaction():
            self._db.run(
                "INSERT INTO cloud (id, base_url, team_id) VALUES (1, :url, :team) ON CONFLICT (id)"
                " DO UPDATE SET team_id = coalesce(team_id, excluded.team_id)"
                " WHERE base_url = excluded.base_url",
                {"url": base_url, "team": team_id},
            )
            row = self._db.one("SELECT * FROM cloud")
        assert row is not None
        return row["base_url"], row["team_id"]

    def trusts_key(self, key: str) -> bool:
        """Return whether *key* is the last device key that was verified to show the records."""
        return bool(self._db.value("SELECT key_digest FROM cloud") == _digest(key))

    def trust_key(self, key: str | None) -> None:
        """Remember the device key whose team has the records; None: a session is used."""
        self._db.run(
            "UPDATE cloud SET key_digest = :new WHERE key_digest IS NOT :new",
            {"new": None if key is None else _digest(key)},
        )

    def answered(self, base_url: str) -> frozenset[Call]:
        rows = self._db.all("SELECT call FROM route WHERE base_url = ?", (base_url,))
        return frozenset(Call(row["call"]) for row in rows)

    def note_answered(self, base_url: str, call: Call) -> None:
        self._db.run("INSERT OR IGNORE INTO route (base_url, call) VALUES (?, ?)", (base_url, call))

    def pace(self, base_url: str) -> float | None:
        """Return the calls per second that an earlier run found, or None."""
        row = self._db.one("SELECT calls_per_s FROM pace WHERE base_url = ?", (base_url,))
        return None if row is None else float(row["calls_per_s"])

    def note_pace(self, base_url: str, calls_per_s: float) -> None:
        with self._db.transaction():
            self._db.run("REPLACE INTO pace VALUES (?, ?)", (base_url, calls_per_s))

    def pin_storage_host(self, base_url: str, host: str) -> str:
        """Remember the storage host of a server; returns the first one that was remembered."""
        with self._db.transaction():
            self._db.run(
                "INSERT OR IGNORE INTO storage_host (base_url, host) VALUES (?, ?)",
                (base_url, host),
            )
            first = "SELECT host FROM storage_host WHERE base_url = ?"
            return str(self._db.value(first, (base_url,)))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
