"""
The calls of the cloud API that need a credential, one method each.

``cloud.transport`` sends them and ``cloud.validation`` checks their answers.
"""

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from syncd.clock import Clock
from syncd.cloud import http, validation
from syncd.cloud.credentials import Credentials
from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.transport import BeforeSending, NoRecord, Transport
from syncd.cloud.validation import from_json, ignore_body, parse_json
from syncd.config import settings
from syncd.core.jobs.error_mapping import to_error
from syncd.errors import JobError
from syncd.types import Call, Grant, Kind, Multipart, Profile, Record, Target

T = TypeVar("T")

PER_PAGE = 100
PAGES_MAX = 1000
LISTINGS_MAX = 3
"""How often a listing that changes while it is read is read from its beginning."""

MULTIPART = settings.Multipart()
"""The default paths."""

DISABLED = {"model_status": "disabled"}
ACTIVE = {"model_status": "active"}
"""The changes that disable and enable a record."""


class CloudClient:
    """
    The endpoints of the cloud API.

    Every method raises a ``JobError`` whose ``kind`` is the row of the retry table. A method with
    *intend* awaits it immediately before each try is sent, to commit the intent of the call; such a
    call is not repeated while an earlier try may have taken effect.

    Args:
        hosts: Which hosts presigned URLs may name.
        multipart: Paths of the undocumented multipart calls.
    """

    def __init__(
        self,
        transport: Transport,
        credentials: Credentials,
        *,
        hosts: HostPolicy,
        clock: Clock,
        multipart: settings.Multipart = MULTIPART,
    ) -> None:
        self._transport = transport
        self._credentials = credentials
        self._hosts = hosts
        self._clock = clock
        self._multipart = multipart
        self._capabilities = transport.capabilities
        self._pace = transport.pace

    def calls_per_s(self) -> float | None:
        """Return the current pace of calls; None if the server has none."""
        return self._pace.rate if math.isfinite(self._pace.rate) else None

    @property
    def multipart_available(self) -> bool:
        """Return whether no multipart call is known to be missing on this server."""
        return self._capabilities.multipart

    @property
    def clock_skew_s(self) -> float | None:
        """Seconds that this machine's clock is ahead of the server's, by its latest answer."""
        return self._transport.clock_skew_s

    async def me(self) -> Profile:
        """Return the owner of the credential."""
        return await self._send(Call.ME, "GET", "/users/me", read=from_json(validation.profile_of))

    async def revoke(self) -> None:
        """Revoke the device key that signs this call, and its companion."""
        await self._send(Call.REVOKE, "POST", "/auth/device/revoke", read=ignore_body)

    async def agents(self) -> int:
        """Return how many agents of the team are connected."""
        path = "/agents?current_page=1&per_page=1"
        return await self._send(Call.AGENTS, "GET", path, read=from_json(validation.total_of))

    async def register(
        self,
        target: Target,
        *,
        storage_key: str,
        size: int,
        sha256: str,
        intend: BeforeSending | None = None,
    ) -> str:
        """Create the catalog record of a stored object and return its id."""
        body = {
            "display_name": target.display_name,
            "model_type": target.model_type,
            "storage_key": storage_key,
            "file_size": size,
            "file_hash": f"sha256:{sha256}",
            "model_path": target.model_path,
        }
        return await self._send(
            Call.REGISTER, "POST", "/models", body, read=from_json(validation.id_of), intend=intend
        )

    async def models(self) -> AsyncIterator[Record]:
        """
        Yield all records of the team, each once; members may be missing.

        A deletion during the listing moves another record to a page that was read before. If the
        total changes, the listing is therefore read again, at most ``LISTINGS_MAX`` times. A total
        that only grew is then accepted, because a new record hides no other.

        Raises:
            JobError: ``INVALID_ANSWER``: the listing ends before its own ``total_count``, so a
                record that was not seen may still exist.
        """
        seen: set[str] = set()
        totals: list[int] = []
        for _ in range(LISTINGS_MAX):
            totals.clear()
            async for page in self._pages():
                totals.append(page.total)
                for record in page.records:
                    if record.id not in seen:
                        seen.add(record.id)
                        yield record
            if len(set(totals)) <= 1:
                return
        if totals != sorted(totals):
            raise self._bad_listing("changed while it was read")

    async def _pages(self) -> AsyncIterator[validation.Page]:
        seen: set[str] = set()
        for number in range(1, PAGES_MAX + 1):
            path = f"/models?current_page={number}&per_page={PER_PAGE}"
            read = from_json(validation.page_of)
            page = await self._send(Call.LIST_MODELS, "GET", path, read=read)
            yield page
            known = len(seen)
            seen |= {record.id for record in page.records}
            if len(seen) >= page.total:
                return
            if len(seen) == known:
                break
        raise self._bad_listing("ended too early")

    def _bad_listing(self, problem: str) -> JobError:
        message = f"list_models: the listing of {self._transport.host} {problem}"
        return to_error(Kind.INVALID_ANSWER, message)

    async def find(self, storage_key: str) -> Record | None:
        """Return the record with this key; a record that is listed without its key is read."""
        async for listed in self.models():
            record = listed if listed.storage_key else await self.get_model(listed.id)
            if record is not None and record.storage_key == storage_key:
                return record
        return None

    async def get_model(self, record_id: str) -> Record | None:
        """Return one record, or None if it does not exist."""
        path, read = _record_path(record_id), from_json(validation.record_of)
        try:
            return await self._send(Call.GET_MODEL, "GET", path, read=read)
        except NoRecord:
            return None

    async def update_model(
        self, record_id: str, changes: Mapping[str, str], *, intend: BeforeSending | None = None
    ) -> bool:
        """Change some members of a record; False if it does not exist."""
        method, path = self._capabilities.update_method, _record_path(record_id)
        call = Call.UPDATE_MODEL
        try:
            await self._send(call, method, path, changes, read=ignore_body, intend=intend)
        except NoRecord:
            return False
        except JobError as error:
            if error.kind is not Kind.ROUTE_UNKNOWN or method == "PATCH":
                raise
            self._capabilities.update_method = "PATCH"
            return await self.update_model(record_id, changes, intend=intend)
        return True

    async def delete_model(self, record_id: str, *, intend: BeforeSending | None = None) -> bool:
        """Delete a record; False if it does not exist."""
        path = _record_path(record_id)
        try:
            await self._send(Call.DELETE_MODEL, "DELETE", path, read=ignore_body, intend=intend)
        except NoRecord:
            return False
        return True

    async def presign(self, target: Target, size: int) -> Grant:
        """Reserve a storage key for *size* bytes; the grant holds it and a URL for one PUT."""
        body = {
            "file_name": target.file_name,
            "file_size": size,
            "model_type": target.model_type,
            "model_path": target.model_path,
        }
        read = self._grant_reader(size, keyed=True)
        return await self._send(Call.PRESIGN, "POST", "/models/presign", body, read=read)

    async def initiate(self, storage_key: str, size: int) -> Multipart:
        """Open a multipart upload of *size* bytes; not repeated while unclear."""
        body = {"storage_key": storage_key, "file_size": size}
        read = from_json(partial(validation.multipart_of, size=size, storage_key=storage_key))
        return await self._send(
            Call.INITIATE, "POST", "/uploads/multipart/initiate", body, read=read
        )

    async def sign_part(self, upload: Multipart, number: int, size: int) -> Grant:
        """Return a short-lived URL for part *number* (from 1) of *size* bytes."""
        body = {**_upload_members(upload), "part_number": number}
        read = self._grant_reader(size, keyed=False)
        return await self._send(
            Call.SIGN_PART, "POST", self._multipart.sign_part_path, body, read=read
        )

    async def complete(
        self,
        upload: Multipart,
        parts: Sequence[tuple[int, str]],
        *,
        again: bool = False,
        intend: BeforeSending | None = None,
    ) -> None:
        """
        Assemble the parts, given as (number, etag).

        Args:
            again: An earlier call may have taken effect with its answer lost. A 404 is then about
                the upload and not about the route.
        """
        if again:
            self._capabilities.assume_answered(Call.COMPLETE)
        listed = [{"part_number": number, "etag": etag} for number, etag in sorted(parts)]
        body = {**_upload_members(upload), "parts": listed}
        path = self._multipart.complete_path
        try:
            await self._send(
                Call.COMPLETE, "POST", path, body, read=_require_no_error, intend=intend
            )
        except JobError as error:
            if error.kind is Kind.INVALID_ANSWER:  # a success, so the next 404 is about the upload
                self._capabilities.note_answered(Call.COMPLETE)
            raise

    async def abort(self, upload: Multipart) -> None:
        """Drop an unfinished upload; one that does not exist counts as dropped."""
        path, body = self._multipart.abort_path, _upload_members(upload)
        try:
            await self._send(Call.ABORT, "POST", path, body, read=ignore_body)
        except JobError as error:
            if error.kind is not Kind.UPLOAD_GONE:
                raise

    def _grant_reader(self, size: int, *, keyed: bool) -> Callable[[bytes], Grant]:
        def read(answer: dict[str, Any]) -> Grant:
            now_ms = self._clock.now_ms()
            grant = validation.grant_of(
                answer, size=size, policy=self._hosts, now_ms=now_ms, keyed=keyed
            )
            http.url_of(grant.url)
            return grant

        return from_json(read)

    async def _send(
        self,
        call: Call,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: Callable[[bytes], T],
        intend: BeforeSending | None = None,
    ) -> T:
        return await self._transport.send(
            call, method, path, body, read=read, credential=self._credentials, intend=intend
        )


def _record_path(record_id: str) -> str:
    return f"/models/{quote(record_id, safe='')}"


def _upload_members(upload: Multipart) -> dict[str, Any]:
    return {"storage_key": upload.storage_key, "upload_id": upload.upload_id}


def _require_no_error(body: bytes) -> None:
    """S3, and proxies before it, may send the status 200 first and fail afterwards."""
    if body.strip() and "error_message" in parse_json(body):
        raise to_error(Kind.INVALID_ANSWER, "a success with an error inside")
