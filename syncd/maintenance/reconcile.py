"""
Looks after the records that stand for files here: are they still there, and is there only one each?

Others may delete, disable or move a record. That is noticed and shown, and never undone: whoever
deleted a model does not want to meet it again. Two machines of a team that send one file at the same
moment make two records; the younger one's maker takes it back and adopts the older one.

Where the server does not list, nothing of this can be told.
"""

from dataclasses import dataclass

import structlog

from syncd.clock import Clock
from syncd.cloud.capabilities import NO_SUCH_CALL
from syncd.cloud.client import DISABLED, CloudClient
from syncd.cloud.listing import Catalog
from syncd.core.catalog.drift import REASONS, Drift, is_disabled, oldest, sha256_of
from syncd.core.jobs import late
from syncd.errors import JobError
from syncd.executors import Executors
from syncd.store.records import Standing
from syncd.store.store import Store
from syncd.types import Record

BETWEEN_S = 60.0
"""At least, between two listings for the sake of new records."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the listing has at a record's path with its bytes: itself, and others in force."""

    own: Record | None
    others: list[Record]


class Reconciler:
    """
    Compares what is remembered with what the catalog lists.

    Args:
        hidden: Records are registered to be disabled (``catalog.register_as``), so being so is no
            drift.
        latest_s: Seconds after which a request whose answer was lost cannot take effect any more.
    """

    def __init__(
        self,
        *,
        store: Store,
        lanes: Executors,
        api: CloudClient,
        catalog: Catalog,
        clock: Clock,
        hidden: bool,
        latest_s: float,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._api = api
        self._catalog = catalog
        self._clock = clock
        self._hidden = hidden
        self._latest_s = latest_s
        self._again_s = 0.0
        self._kept: set[str] = set()
        self._log = structlog.get_logger("syncd.maintenance.reconcile")

    async def look_at_new(self) -> None:
        """Look if there are records that were never compared; not more often than each minute."""
        if self._clock.boottime_s() < self._again_s:
            return
        if await self._lanes.db(self._store.records.has_unchecked):
            await self.look()

    async def look(self) -> None:
        """Read the listing and compare; what cannot be asked now is left for the next time."""
        self._again_s = self._clock.boottime_s() + BETWEEN_S
        standing = await self._lanes.db(self._store.records.standing)
        drifts: dict[str, Drift | None] = {}
        try:
            listed = bool(standing) and await self._catalog.read()
            for each in standing:
                drifts[each.record_id] = await self._judge(each) if listed else each.drift
        except JobError as error:
            self._log.info("catalog.list_failed", reason=str(error))
        self._tell(standing, drifts)
        await self._lanes.db(self._store.records.note_checked, drifts, self._clock.now_ms())

    async def _judge(self, standing: Standing) -> Drift | None:
        """What others did to a record; a twin of it is dealt with on the way."""
        seen = await self._see(standing)
        if standing.ours and await self._makes_way(standing, seen):
            return None
        if seen.own is not None:
            return self._unless_hidden(Drift.DISABLED) if is_disabled(seen.own) else None
        if standing.drift is Drift.MISSING:
            return Drift.MISSING
        # A list that is read page by page may pass over one: only its absence itself says so.
        record = await self._api.get_model(standing.record_id)
        if record is None:
            return Drift.MISSING
        if record.model_path != standing.model_path:
            return Drift.MOVED
        return self._unless_hidden(Drift.DISABLED) if is_disabled(record) else None

    def _unless_hidden(self, drift: Drift) -> Drift | None:
        return None if self._hidden else drift

    async def _see(self, standing: Standing) -> _Seen:
        own, others = None, []
        for record in self._catalog.at(standing.model_path):
            if record.id == standing.record_id:
                own = record
            elif not is_disabled(record):
                others.append(record)
        if others:  # seldom, and only then may a short listing cost a call for each
            same = await self._catalog.same_bytes(standing.model_path, standing.sha256)
            ids = {record.id for record in others}
            others = [record for record in same if record.id in ids]
        return _Seen(own, others)

    async def _makes_way(self, standing: Standing, seen: _Seen) -> bool:
        """Disable our record where an older one has the same bytes at its path; True if that is done."""
        twin_id = standing.twin_id
        if twin_id is None:
            if seen.own is None or is_disabled(seen.own) or not seen.others:
                return False
            twin_id = oldest([seen.own, *seen.others]).id
            if twin_id == standing.record_id:
                return False
        records, own_id = self._store.records, standing.record_id
        sent_at = await self._lanes.db(records.change_sent_at, own_id)
        if sent_at and late.wait_s(sent_at, self._clock.now_ms(), self._latest_s) > 0:
            return False

        async def intend() -> None:
            await self._lanes.db(records.intend_change, own_id, self._clock.now_ms())

        if not _is_in_force(await self._api.get_model(twin_id), standing):
            await self._lanes.db(records.note_twin, own_id, None)
            return False
        await self._lanes.db(records.note_twin, own_id, twin_id)
        told = {"model_path": standing.model_path, "record_id": own_id, "other_id": twin_id}
        try:
            await self._api.update_model(own_id, DISABLED, intend=intend)
        except JobError as error:
            if error.kind not in NO_SUCH_CALL:
                raise
            await self._lanes.db(records.note_twin, own_id, None)
            await self._lanes.db(records.note_answered, own_id)
            if own_id not in self._kept:
                self._kept.add(own_id)
                self._log.warning(
                    "record.duplicate_kept",
                    **told,
                    reason=str(error),
                    advice="Remove one in the cloud.",
                )
            return False
        await self._lanes.db(records.yield_to_duplicate, own_id, twin_id)
        self._log.info("record.deduplicated", **told)
        return True

    def _tell(self, standing: list[Standing], drifts: dict[str, Drift | None]) -> None:
        for each in standing:
            drift = drifts.get(each.record_id, each.drift)
            told = {"model_path": each.model_path, "record_id": each.record_id}
            if drift is not None and drift is not each.drift:
                self._log.warning("record.drifted", **told, reason=REASONS[drift])
            elif drift is None and each.drift is not None:
                self._log.info("record.restored", **told)


def _is_in_force(record: Record | None, standing: Standing) -> bool:
    """Does it hold what ours holds, where ours does, for everybody to get?"""
    return (
        record is not None
        and not is_disabled(record)
        and record.model_path == standing.model_path
        and sha256_of(record) == standing.sha256
    )
