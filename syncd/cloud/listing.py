"""
What the cloud's catalog holds, as its own listing tells it.

The listing is not a documented call, so everything here may turn out to be missing on a server;
then only what this machine registered itself is known. A listing is read once and kept for
``FRESH_S``: adopting a file that the catalog gained meanwhile is a saving, not a duty.
"""

import asyncio
from collections.abc import Collection
from dataclasses import replace

from syncd.clock import Clock
from syncd.cloud.client import CloudClient
from syncd.core.catalog.drift import is_disabled, sha256_of
from syncd.errors import JobError
from syncd.types import Kind, Record

FRESH_S = 600.0

_EVERYTHINGS = frozenset(
    {
        Kind.SESSION_REFUSED,
        Kind.DEVICE_KEY_REFUSED,
        Kind.API_THROTTLED,
        Kind.TLS_ERROR,
        Kind.CAPTIVE_PORTAL,
    }
    | {Kind.NETWORK, Kind.DEAD_CONNECTION}
)
"""What no other call would be spared either."""


PROOFS = 5
"""So many of the newest records are looked for before a credential counts as another team's."""


async def shows(api: CloudClient, record_ids: Collection[str]) -> bool:
    """
    Is one of these records in the catalog that *api* shows?

    Nobody tells the team of a device key, so this is how one team's is told from another's. Without
    any record there is nothing that could be elsewhere.

    Raises:
        JobError: The cloud could not be asked.
    """
    for record_id in record_ids:
        if await api.get_model(record_id) is not None:
            return True
    return not record_ids


class Catalog:
    """The records of the team, active or not, by path and by storage key."""

    def __init__(self, api: CloudClient, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._by_path: dict[str, list[Record]] = {}
        self._read_at_s: float | None = None
        self._listed = False
        self._reading = asyncio.Lock()

    async def holding(self, model_path: str, sha256: str) -> Record | None:
        """
        The record that holds these bytes at that path, if the catalog tells of one.

        One that is disabled comes only where no active one does: somebody took it out of force, and
        another copy would put it back. Of a listing that fails by itself, the records that it named
        count: adopting is a saving.

        Raises:
            JobError: The cloud as a whole could not be asked just now.
        """
        await self._refresh()
        try:
            found = await self.same_bytes(model_path, sha256)
            return min(found, key=is_disabled, default=None)
        except JobError as error:
            if error.kind in _EVERYTHINGS:
                raise
        return None

    async def may_hold(self, model_path: str, size: int) -> bool:
        """
        Could the catalog hold a file of *size* bytes at that path? Asked before its hash is known.

        Raises:
            JobError: The cloud as a whole could not be asked just now.
        """
        await self._refresh()
        return any(record.file_size in (None, size) for record in self.at(model_path))

    async def read(self) -> bool:
        """
        Read the listing now; whether the server has a usable one.

        Raises:
            JobError: The cloud as a whole could not be asked just now.
        """
        self.forget()
        await self._refresh()
        return self._listed

    @property
    def listed(self) -> bool:
        """Had the server a usable listing when it was last asked?"""
        return self._listed

    def at(self, model_path: str) -> list[Record]:
        """The records at that path when the listing was read, as it shows them."""
        return self._by_path.get(model_path, [])

    async def same_bytes(self, model_path: str, sha256: str) -> list[Record]:
        """
        Those of them that hold these bytes.

        Raises:
            JobError: A record that the listing shows without its hash could not be read.
        """
        found = []
        for listed in self.at(model_path):
            record = listed if listed.file_hash else await self._api.get_model(listed.id)
            if record is not None and sha256_of(record) == sha256:
                found.append(record)
        return found

    def forget(self) -> None:
        """Ask afresh next time."""
        self._read_at_s = None

    async def stored_under(self, storage_key: str) -> tuple[Record | None, bool]:
        """
        The record made from *storage_key*, asked afresh, and whether the server has a listing at all.

        A listing that is refused is not a missing one: the record may be in it.

        Raises:
            JobError: The cloud could not be asked just now, or its answer is of no use.
        """
        try:
            found = await self._api.find(storage_key=storage_key)
        except JobError as error:
            if error.kind is Kind.ROUTE_UNKNOWN:
                return None, False
            raise
        return (found[0] if found else None), True

    async def _refresh(self) -> None:
        """
        Read the listing unless it is fresh; of one that fails by itself, keep what was read.

        Raises:
            JobError: The cloud as a whole could not be asked just now.
        """
        async with self._reading:
            now_s = self._clock.boottime_s()
            if self._read_at_s is not None and now_s - self._read_at_s < FRESH_S:
                return
            self._by_path, self._listed = {}, False
            try:
                async for record in self._api.models():
                    if record.model_path is not None:
                        # A team's whole catalog is kept: without what nobody asks for.
                        slim = replace(record, model_type=None, display_name=None, storage_key=None)
                        self._by_path.setdefault(record.model_path, []).append(slim)
                self._listed = True
            except JobError as error:
                if error.kind in _EVERYTHINGS:
                    raise
            self._read_at_s = now_s
