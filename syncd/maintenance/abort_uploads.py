"""Aborts the multipart uploads that no job needs any more."""

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


class UploadAborter:
    """Aborts uploads whose job was superseded or rejected."""

    def __init__(self, *, store: Store, lanes: Executors, api: CloudClient, clock: Clock) -> None:
        self._store = store
        self._lanes = lanes
        self._api = api
        self._clock = clock
        self._log = structlog.get_logger("syncd.maintenance.abort_uploads")

    async def abort_unwanted(self) -> None:
        """Abort the uploads that are due; a failed abort is tried again later."""
        while True:
            now_ms, uploads = self._clock.now_ms, self._store.uploads
            upload = await self._lanes.db(uploads.next_unwanted, now_ms())
            if upload is None:
                return
            try:
                await self._api.abort(upload)
            except JobError as error:
                end = _ENDS.get(error.kind)
                if end is None:
                    self._log.warning("upload.abort_postponed", reason=str(error))
                    again = now_ms() + RETRY_MS
                    await self._lanes.db(uploads.postpone_abort, upload, again, now_ms())
                    continue
            else:
                end = UploadState.ABORTED
            self._log.info("upload.ended", end=end)
            await self._lanes.db(uploads.end, upload, end, now_ms())
