"""
Disables or deletes records of ours: those whose path has new bytes, and those whose file is gone.

With new bytes, the new object and the new record come first and the old record is disabled last, so
that agents always have the model. The operator decides what happens to the record of a deleted file;
by default nothing does.
"""

from dataclasses import dataclass, field
from typing import Literal

import structlog

from syncd.clock import Clock
from syncd.cloud.capabilities import NO_SUCH_CALL
from syncd.cloud.client import DISABLED, CloudClient
from syncd.errors import JobError
from syncd.executors import Executors
from syncd.store.records import RecordToRetire
from syncd.store.store import Store
from syncd.types import Remark

RETRY_MS = 300_000
"""Before a failed call is made again."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """
    What happens to the record of a file that is gone.

    Args:
        grace_s: Seconds for which the file must be gone.
        most: If more records than this are due at once, none is retired.
    """

    action: Literal["keep", "disable", "delete"]
    grace_s: float
    most: int


@dataclass(kw_only=True, slots=True)
class RecordCleanup:
    """Retires records, one after the other."""

    store: Store
    lanes: Executors
    api: CloudClient
    clock: Clock
    policy: Policy
    _held_back: int = field(default=0, init=False)

    async def retire_due(self) -> None:
        """Retire the records that are due; a failed call is made again later."""
        while (retiring := await self._next()) is not None:
            await self._retire(retiring)

    async def retire_now(
        self, retiring: RecordToRetire, action: Literal["disable", "delete"]
    ) -> str | None:
        """Disable or delete a record that an operator chose; return why it failed, or None."""
        records, now_ms = self.store.records, self.clock.now_ms
        await self.lanes.db(records.note_retiring, retiring, now_ms())
        try:
            await self._call(retiring, action)
        except JobError as error:
            return str(error)
        fields = {"model_path": retiring.model_path, "record_id": retiring.record_id}
        _log.info("record.retired", **fields, action=action)
        await self.lanes.db(
            records.remark, retiring.record_id, Remark.PRUNED, f"{action}d by an operator", now_ms()
        )
        if action == "delete":
            await self.lanes.db(records.note_deleted, retiring)
        else:
            await self.lanes.db(records.note_retired, retiring, now_ms())
        return None

    async def _call(self, retiring: RecordToRetire, action: str) -> None:
        record_id = retiring.record_id

        async def intend() -> None:
            now_ms = self.clock.now_ms()
            await self.lanes.db(self.store.records.intend_change, record_id, now_ms)

        if action == "delete":
            await self.api.delete_model(record_id, intend=intend)
        else:
            await self.api.update_model(record_id, DISABLED, intend=intend)

    async def _next(self) -> RecordToRetire | None:
        policy, now_ms = self.policy, self.clock.now_ms()
        before = None if policy.action == "keep" else now_ms - int(policy.grace_s * 1000)
        retiring, held_back = await self.lanes.db(
            self.store.records.retiring, now_ms, gone_before=before, most_gone=policy.most
        )
        if held_back not in (0, self._held_back):
            _log.warning(
                "record.deletions_blocked",
                records=held_back,
                most=policy.most,
                advice="If the files were removed on purpose, raise catalog.delete_most.",
            )
        self._held_back = held_back
        return retiring

    async def _retire(self, retiring: RecordToRetire) -> None:
        records, now_ms = self.store.records, self.clock.now_ms
        action = "disable" if retiring.replaced else self.policy.action
        fields = {"model_path": retiring.model_path, "record_id": retiring.record_id}
        try:
            await self._call(retiring, action)
        except JobError as error:
            if error.kind not in NO_SUCH_CALL:
                _log.warning("record.retire_postponed", **fields, reason=str(error))
                await self.lanes.db(records.postpone, retiring, now_ms() + RETRY_MS)
                return
            _log.warning(
                "record.not_retired",
                **fields,
                reason=str(error),
                advice="The path now has two records. Give the new bytes a new file name."
                if retiring.replaced
                else "Remove the record in the cloud.",
            )
        else:
            _log.info("record.retired", **fields, action=action)
            remark = Remark.DISABLED if action == "disable" else Remark.DELETED
            reason = "its path has new bytes" if retiring.replaced else "its file is gone"
            await self.lanes.db(records.remark, retiring.record_id, remark, reason, now_ms())
        await self.lanes.db(records.note_retired, retiring, now_ms())
