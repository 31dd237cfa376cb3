"""
What the cloud's catalog holds, as its own listing tells it.

The listing is not a documented call, so everything here may turn out to be missing on a server;
then only what this machine registered itself is known. A listing is read once and kept for
``FRESH_S``: adopting a file that the catalog gained meanwhile is a saving, not a duty.
"""

from syncd.api import CloudApi
from syncd.clock import Clock
from syncd.errors import JobError
from syncd.model import Kind, Record

FRESH_S = 600.0
_UNAVAILABLE = frozenset(
    {Kind.ROUTE_UNKNOWN, Kind.NOT_ALLOWED, Kind.OUR_DATA, Kind.BAD_ANSWER, Kind.OTHER_CLIENT_ERROR}
)


class Catalog:
    """The records of the team, by path and by storage key."""

    def __init__(self, api: CloudApi, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._by_path: dict[str, list[Record]] = {}
        self._read_at_s: float | None = None

    async def holding(self, model_path: str, sha256: str) -> Record | None:
        """
        The active record that holds these bytes at that path, if the catalog tells of one.

        Raises:
            JobError: The cloud could not be asked just now.
        """
        await self._refresh()
        for listed in self._by_path.get(model_path, ()):
            record = listed if listed.file_hash else await self._whole(listed)
            if record is not None and record.file_hash == f"sha256:{sha256}":
                return record
        return None

    def forget(self) -> None:
        """Ask afresh next time."""
        self._read_at_s = None

    async def stored_under(self, storage_key: str, model_path: str) -> tuple[Record | None, bool]:
        """
        The record made from *storage_key*, asked afresh, and whether the server lists at all.

        Raises:
            JobError: The cloud could not be asked just now.
        """
        self.forget()
        if not await self._refresh():
            return None, False
        for listed in self._by_path.get(model_path, ()):
            record = listed if listed.storage_key else await self._whole(listed)
            if record is not None and record.storage_key == storage_key:
                return record, True
        return None, True

    async def _whole(self, listed: Record) -> Record | None:
        """The record with the members that the listing left out, if the server shows it."""
        try:
            return await self._api.get_model(listed.id)
        except JobError as error:
            if error.kind in _UNAVAILABLE:
                return None
            raise

    async def _refresh(self) -> bool:
        """Read the listing unless it is fresh; False where the server has none."""
        now_s = self._clock.boottime_s()
        if self._read_at_s is not None and now_s - self._read_at_s < FRESH_S:
            return True
        by_path: dict[str, list[Record]] = {}
        try:
            async for record in self._api.models():
                if record.model_path is not None and record.model_status != "disabled":
                    by_path.setdefault(record.model_path, []).append(record)
        except JobError as error:
            if error.kind in _UNAVAILABLE:
                return False
            raise
        self._by_path, self._read_at_s = by_path, now_s
        return True
