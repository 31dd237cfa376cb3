"""
Compares our records with the catalog: do they still exist, and is there only one for each file?

Other people may delete, disable or move a record. syncd reports that and never undoes it. If two
machines of a team upload one file at the same moment, the catalog gets two records; the machine with
the younger record disables it and adopts the older one.

All of this needs a server that lists its models.
"""

from dataclasses import dataclass, field

import structlog

from syncd.clock import Clock
from syncd.cloud.capabilities import NO_SUCH_CALL
from syncd.cloud.client import DISABLED, CloudClient
from syncd.cloud.listing import Catalog
from syncd.core.catalog.drift import REASONS, Drift, is_disabled, oldest, sha256_of
from syncd.core.jobs.retry_policy import late_wait_s
from syncd.errors import JobError
from syncd.executors import Executors
from syncd.store.records import Standing
from syncd.store.store import Store
from syncd.types import Record

BETWEEN_S = 60.0
"""The shortest time between two listings on account of new records."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Listed:
    """What the catalog lists at a record's path: the record, and enabled ones with the same bytes."""

    own: Record | None
    others: list[Record]


@dataclass(kw_only=True, slots=True)
class Reconciler:
    """
    Compares our records with the catalog.

    Args:
        hidden: Records are registered as disabled (``catalog.register_as``), so that is no drift.
        latest_s: Seconds after which a request whose answer was lost can no longer take effect.
    """

    store: Store
    lanes: Executors
    api: CloudClient
    catalog: Catalog
    clock: Clock
    hidden: bool
    latest_s: float
    _next_new_s: float = field(default=0.0, init=False)
    _kept_duplicates: set[str] = field(default_factory=set, init=False)

    async def reconcile_new(self) -> None:
        """Reconcile if some records were never compared, at most once a minute."""
        if self.clock.boottime_s() < self._next_new_s:
            return
        if await self.lanes.db(self.store.records.has_unchecked):
            await self.reconcile()

    async def reconcile(self) -> None:
        """Read the listing and compare; records that cannot be checked now wait for the next time."""
        self._next_new_s = self.clock.boottime_s() + BETWEEN_S
        standing = await self.lanes.db(self.store.records.standing)
        drifts: dict[str, Drift | None] = {}
        try:
            listed = bool(standing) and await self.catalog.read()
            for record in standing:
                drifts[record.record_id] = await self._judge(record) if listed else record.drift
        except JobError as error:
            _log.info("catalog.list_failed", reason=str(error))
        self._log_drifts(standing, drifts)
        await self.lanes.db(self.store.records.note_checked, drifts, self.clock.now_ms())

    async def _judge(self, standing: Standing) -> Drift | None:
        """Return what others did to a record; also yield to an older duplicate of it."""
        listed = await self._listed(standing)
        if standing.ours and await self._yield_to_duplicate(standing, listed):
            return None
        if listed.own is not None:
            return self._unless_hidden(Drift.DISABLED) if is_disabled(listed.own) else None
        if standing.drift is Drift.MISSING:
            return Drift.MISSING
        # A listing that is read page by page may skip a record, so ask for the record itself.
        record = await self.api.get_model(standing.record_id)
        if record is None:
            return Drift.MISSING
        if record.model_path != standing.model_path:
            return Drift.MOVED
        return self._unless_hidden(Drift.DISABLED) if is_disabled(record) else None

    def _unless_hidden(self, drift: Drift) -> Drift | None:
        return None if self.hidden else drift

    async def _listed(self, standing: Standing) -> _Listed:
        own, others = None, []
        for record in self.catalog.at(standing.model_path):
            if record.id == standing.record_id:
                own = record
            elif not is_disabled(record):
                others.append(record)
        if others:  # rare; a server with a short listing needs one call for each of them
            same = await self.catalog.same_bytes(standing.model_path, standing.sha256)
            ids = {record.id for record in others}
            others = [record for record in same if record.id in ids]
        return _Listed(own, others)

    async def _yield_to_duplicate(self, standing: Standing, listed: _Listed) -> bool:
        """Disable our record if an older one has the same bytes at its path; return whether it did."""
        twin_id = standing.twin_id
        if twin_id is None:
            if listed.own is None or is_disabled(listed.own) or not listed.others:
                return False
            twin_id = oldest([listed.own, *listed.others]).id
            if twin_id == standing.record_id:
                return False
        records, own_id = self.store.records, standing.record_id
        sent_at = await self.lanes.db(records.change_sent_at, own_id)
        if sent_at and late_wait_s(sent_at, self.clock.now_ms(), self.latest_s) > 0:
            return False

        async def intend() -> None:
            await self.lanes.db(records.intend_change, own_id, self.clock.now_ms())

        if not _replaces(await self.api.get_model(twin_id), standing):
            await self.lanes.db(records.note_twin, own_id, None)
            return False
        await self.lanes.db(records.note_twin, own_id, twin_id)
        fields = {"model_path": standing.model_path, "record_id": own_id, "other_id": twin_id}
        try:
            await self.api.update_model(own_id, DISABLED, intend=intend)
        except JobError as error:
            if error.kind not in NO_SUCH_CALL:
                raise
            await self.lanes.db(records.note_twin, own_id, None)
            await self.lanes.db(records.note_answered, own_id)
            if own_id not in self._kept_duplicates:
                self._kept_duplicates.add(own_id)
                _log.warning(
                    "record.duplicate_kept",
                    **fields,
                    reason=str(error),
                    advice="Remove one in the cloud.",
                )
            return False
        await self.lanes.db(records.yield_to_duplicate, own_id, twin_id)
        _log.info("record.deduplicated", **fields)
        return True

    def _log_drifts(self, standing: list[Standing], drifts: dict[str, Drift | None]) -> None:
        for record in standing:
            drift = drifts.get(record.record_id, record.drift)
            fields = {"model_path": record.model_path, "record_id": record.record_id}
            if drift is not None and drift is not record.drift:
                _log.warning("record.drifted", **fields, reason=REASONS[drift])
            elif drift is None and record.drift is not None:
                _log.info("record.restored", **fields)


def _replaces(record: Record | None, standing: Standing) -> bool:
    """Return whether *record* is enabled and has the bytes and path of ours."""
    return (
        record is not None
        and not is_disabled(record)
        and record.model_path == standing.model_path
        and sha256_of(record) == standing.sha256
    )
