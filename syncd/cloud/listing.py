"""
The cloud's catalog, as its listing shows it.

The listing is not a documented call, so a server may lack it. Then only the records that this machine
registered are known. A listing is read once and kept for ``FRESH_S``: finding a newer record only saves
an upload.
"""

import asyncio
from collections.abc import Collection
from dataclasses import replace

from syncd.clock import Clock
from syncd.cloud.client import CloudClient
from syncd.core.catalog.drift import is_disabled, sha256_of
from syncd.core.jobs.error_mapping import to_error
from syncd.core.jobs.retry_policy import LISTING_REFUSED
from syncd.errors import JobError
from syncd.types import Call, Kind, Record

FRESH_S = 600.0

_NOT_ABOUT_LISTING = frozenset({
    Kind.SESSION_REFUSED, Kind.DEVICE_KEY_REFUSED, Kind.API_THROTTLED, Kind.TLS_ERROR,
    Kind.CAPTIVE_PORTAL, Kind.NETWORK, Kind.DEAD_CONNECTION,
})  # fmt: skip
"""Errors that any other call would meet as well."""

PROOFS = 5
"""The number of newest records to look for before a credential counts as another team's."""


async def shows(api: CloudClient, record_ids: Collection[str]) -> bool:
    """
    Return whether one of these records is in the catalog of *api*, or there are no records.

    No call names the team of a device key, so the records of a team identify it.
    """
    for record_id in record_ids:
        if await api.get_model(record_id) is not None:
            return True
    return not record_ids


class Catalog:
    """
    The records of the team, active or not, by path and by storage key.

    Where only the listing fails, the records that were read so far count; if the cloud as a whole is
    not available, methods raise a ``JobError``.
    """

    def __init__(self, api: CloudClient, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._by_path: dict[str, list[Record]] = {}
        self._read_at_s: float | None = None
        self.listed = False
        """Whether the last request for the listing succeeded."""
        self._reading = asyncio.Lock()

    async def holding(self, model_path: str, sha256: str) -> Record | None:
        """
        Return the record with these bytes at that path, if there is one; an active one first.

        A disabled record counts too, because a new record would undo that decision.
        """
        await self._refresh()
        try:
            found = await self.same_bytes(model_path, sha256)
            return min(found, key=is_disabled, default=None)
        except JobError as error:
            if error.kind in _NOT_ABOUT_LISTING:
                raise
        return None

    async def may_hold(self, model_path: str, size: int) -> bool:
        """Return whether the catalog may hold a file of this size at that path."""
        await self._refresh()
        return any(record.file_size in (None, size) for record in self.at(model_path))

    async def read(self) -> bool:
        """Read the listing now; return whether the server has a usable one."""
        self.forget()
        await self._refresh()
        return self.listed

    def at(self, model_path: str) -> list[Record]:
        return self._by_path.get(model_path, [])

    async def same_bytes(self, model_path: str, sha256: str) -> list[Record]:
        """Return the records at that path with these bytes; one listed without its hash is read."""
        found = []
        for listed in self.at(model_path):
            record = listed if listed.file_hash else await self._api.get_model(listed.id)
            if record is not None and sha256_of(record) == sha256:
                found.append(record)
        return found

    def forget(self) -> None:
        """Read the listing again next time."""
        self._read_at_s = None

    async def stored_under(self, storage_key: str) -> tuple[Record | None, bool]:
        """
        Return the record of *storage_key* from a new listing, and whether the server has a listing.

        Raises:
            JobError: The listing failed or was refused, so the record may exist.
        """
        try:
            return await self._api.find(storage_key), True
        except JobError as error:
            if error.call is Call.GET_MODEL:
                raise _as_refused_listing(error) from None
            if error.kind is Kind.ROUTE_UNKNOWN:
                return None, False
            raise

    async def _refresh(self) -> None:
        """Read the listing unless it is recent; if only the listing fails, keep what was read."""
        async with self._reading:
            now_s = self._clock.boottime_s()
            if self._read_at_s is not None and now_s - self._read_at_s < FRESH_S:
                return
            self._by_path, self.listed = {}, False
            try:
                async for record in self._api.models():
                    if record.model_path is not None:
                        # The whole catalog is kept in memory, so unused members are dropped.
                        slim = replace(record, model_type=None, display_name=None, storage_key=None)
                        self._by_path.setdefault(record.model_path, []).append(slim)
                self.listed = True
            except JobError as error:
                if error.kind in _NOT_ABOUT_LISTING:
                    raise
            self._read_at_s = now_s


def _as_refused_listing(error: JobError) -> JobError:
    """
    Return the error for a listing of which one record cannot be read.

    A refusal says nothing about the file, and the record may be the one that was asked for.
    """
    kind = Kind.NOT_ALLOWED if error.kind is Kind.ROUTE_UNKNOWN else error.kind
    return to_error(kind, str(error), call=Call.LIST_MODELS) if kind in LISTING_REFUSED else error
