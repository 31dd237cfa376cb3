"""Aborts the multipart uploads that no job needs any more."""

from dataclasses import dataclass

import structlog

from syncd.clock import Clock
from syncd.cloud.client import CloudClient
from syncd.errors import JobError
from syncd.executors import Executors
from syncd.store.store import Store
from syncd.types import Kind, UploadState

RETRY_MS = 300_000
"""Before a failed abort is tried again."""

_ENDS = {Kind.UPLOAD_GONE: UploadState.GONE, Kind.ROUTE_UNKNOWN: UploadState.ABANDONED}

_log = structlog.get_logger(__name__)


@dataclass(kw_only=True, slots=True)
class UploadAborter:
    """Aborts uploads whose job was superseded or rejected."""

    store: Store
    lanes: Executors
    api: CloudClient
    clock: Clock

    async def abort_unwanted(self) -> None:
        """Abort the uploads that are due; a failed abort is tried again later."""
        while True:
            now_ms, uploads = self.clock.now_ms, self.store.uploads
            upload = await self.lanes.db(uploads.next_unwanted, now_ms())
            if upload is None:
                return
            try:
                await self.api.abort(upload)
            except JobError as error:
                end = _ENDS.get(error.kind)
                if end is None:
                    _log.warning("upload.abort_postponed", reason=str(error))
                    again = now_ms() + RETRY_MS
                    await self.lanes.db(uploads.postpone_abort, upload, again, now_ms())
                    continue
            else:
                end = UploadState.ABORTED
            _log.info("upload.ended", end=end)
            await self.lanes.db(uploads.end, upload, end, now_ms())
