"""
Sends bodies and parts to the object store, with retries of the request and of its URL.

Each leaf of a body is compared with its digest before its last piece is sent. Errors that a retry of
the request or a fresh URL does not cure are raised to the worker, which retries the upload or the job.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import structlog

from syncd.clock import Clock
from syncd.cloud.client import CloudClient
from syncd.cloud.object_store import Exchange, ObjectStore
from syncd.core.jobs import retry_policy
from syncd.core.jobs.retry_policy import Budget
from syncd.core.transfer.rates import StallDetector
from syncd.errors import FileChanged, JobError, LeaseLost, NeedsOperator
from syncd.executors import Executors
from syncd.fs import hashing
from syncd.fs.page_cache import Footprint
from syncd.monitoring.progress import Meter, Tally
from syncd.store.store import Store
from syncd.types import Call, Grant, Job, Kind, Multipart, Part
from syncd.upload.limits import Bandwidth, ConcurrencyLimiter
from syncd.upload.quota import TransferQuota

URL_MARGIN_MS = 60_000
"""A URL with less remaining life is not used for a second try."""

LOOK_S = 0.5
"""Interval at which the number of concurrent requests adapts while a request runs."""

Pieces = Callable[[], Iterator[bytes]]
"""Makes a fresh body each time it is called."""


_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Tries:
    """Tries spent on one request, and URLs spent on it."""

    requests: int = 0
    urls: int = 0


@dataclass(frozen=True, slots=True)
class HostRule:
    """
    The hosts that may receive bytes: those configured, else the one that the server used first.

    ``pinned`` is off for a cloud on this machine, whose ports change at each start.
    """

    base_url: str
    named: frozenset[str] = frozenset()
    pinned: bool = True


class Transfer:
    """
    Sends bodies and parts, as many at once as there are slots.

    Args:
        path_of: The absolute path of a job's file.
    """

    def __init__(
        self,
        *,
        store: Store,
        lanes: Executors,
        slots: ConcurrencyLimiter,
        api: CloudClient,
        objects: ObjectStore,
        clock: Clock,
        jitter: Callable[[], float],
        meter: Meter,
        hosts: HostRule,
        quota: TransferQuota,
        bandwidth: Bandwidth,
        path_of: Callable[[Job], str],
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._slots = slots
        self._api = api
        self._objects = objects
        self._clock = clock
        self._jitter = jitter
        self._meter = meter
        self._hosts = hosts
        self._quota = quota
        self._bandwidth = bandwidth
        self._path_of = path_of
        self._budget = Budget()

    @property
    def width(self) -> int:
        """The number of requests that may run at once now."""
        return self._slots.width.limit

    @property
    def widest(self) -> int:
        return self._slots.width.most

    def use(self, start: int, most: int) -> None:
        """Change the limits: *start* takes effect with the next body, *most* with the next file."""
        self._slots.width.resize(start, most)

    async def may_send(self) -> bool:
        """Return whether the daily quota allows another body."""
        return await self._quota.wait_s() == 0

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Wait until one more PUT request may run, and occupy its place."""
        return self._slots.one()

    def has_expired(self, grant: Grant) -> bool:
        return grant.deadline_ms <= self._clock.now_ms()

    def is_live(self, grant: Grant) -> bool:
        """Return whether the URL lives long enough to start a body."""
        return grant.deadline_ms - self._clock.now_ms() > URL_MARGIN_MS

    async def whole(self, job: Job, grant: Grant, stop: threading.Event) -> None:
        """
        Send a file in one request, once, inside a ``slot``.

        Raises:
            JobError, hashing.Stopped: It was not acknowledged.
        """
        assert job.leaves is not None, "hashed before"
        body = Part(1, 0, job.fingerprint.size)
        pieces = self._pieces(job, body, job.leaves, stop=stop)
        await self._send(job, grant, body.size, pieces, number=None, stop=stop)

    async def part(
        self,
        job: Job,
        upload: Multipart,
        part: Part,
        leaves: bytes,
        *,
        found: Footprint,
        stop: threading.Event,
        may_begin: Callable[[], Awaitable[bool]],
        on_signed: Callable[[], Awaitable[None]],
    ) -> str | None:
        """
        Sign and send one part until it is acknowledged, and return its etag.

        Args:
            leaves: The file's leaf digests, at least up to the end of the part.
            found: The part of the file that was in the page cache before.
            may_begin: Asked after the wait for a slot, before each body; if False, None is returned.

        Raises:
            JobError, hashing.Stopped: The retries of the request and of the URL are used up.
        """
        tries, grant = Tries(), None
        pieces = self._pieces(job, part, leaves, found=found, stop=stop)
        while True:
            async with self._slots.one():
                if not await may_begin():
                    return None
                if grant is None or not self.is_live(grant):
                    grant = await self._api.sign_part(upload, part.number, part.size)
                    await on_signed()
                    await self.check_host(grant)
                try:
                    etag = await self._send(
                        job, grant, part.size, pieces, number=part.number, stop=stop
                    )
                except JobError as error:
                    failure = error
                else:
                    assert etag is not None, "refused when the answer was read"
                    return etag
            if await self.again(tries, failure, Call.PUT_PART):  # the wait holds no slot
                grant = None

    async def again(self, tries: Tries, error: JobError, call: Call) -> bool:
        """
        Wait for the next try; True if it needs a fresh URL.

        Raises:
            JobError: *error*, if the retries of the request and of the URL are used up.
        """
        if isinstance(error, FileChanged | LeaseLost):
            raise error
        row = retry_policy.row_of(error.kind, call)
        if row.halves_slots:
            self._slots.width.halve(self._clock.boottime_s())
        tries.requests += 1
        if row.event is not None and tries.requests == row.tries:
            _log.error(row.event, reason=str(error), times=tries.requests)
        failure = retry_policy.Failure(error, call, tries.requests)
        wait_s = retry_policy.request_wait_s(failure, self._jitter())
        if wait_s is not None and self._budget.spend(timeout=error.timed_out):
            self._meter.count(Tally.RETRY, "request")
            _log.warning(
                "request.retried", call=str(call), wait_s=round(wait_s, 1), reason=str(error)
            )
            await self._clock.sleep(wait_s)
            return False
        if not retry_policy.needs_fresh_url(failure, tries.urls):
            raise error
        self._meter.count(Tally.URL_AGAIN)
        _log.info("url.renewed", call=str(call), reason=str(error))
        tries.urls, tries.requests = tries.urls + 1, 0
        return True

    async def check_host(self, grant: Grant) -> None:
        """
        Require that the URL's host may receive bytes.

        Raises:
            NeedsOperator: The URL names another host.
        """
        url = urlsplit(grant.url)
        if {url.netloc, url.hostname} & self._hosts.named or not self._hosts.pinned:
            return
        pinned = await self._lanes.db(
            self._store.servers.pin_storage_host, self._hosts.base_url, url.netloc
        )
        if url.netloc != pinned:
            raise NeedsOperator(
                f"the server changed the storage host from {pinned} to {url.netloc}",
                kind=Kind.INVALID_ANSWER,
                advice=f"If that is meant, set network.storage_hosts to both: {pinned}, {url.netloc}",
            )

    def _pieces(
        self,
        job: Job,
        part: Part,
        leaves: bytes,
        *,
        found: Footprint | None = None,
        stop: threading.Event,
    ) -> Pieces:
        """A factory that makes a new body of *part* for each try."""
        path = self._path_of(job)
        return partial(
            hashing.checked_pieces, path, job.fingerprint, part, leaves, found=found, stop=stop
        )

    async def _send(
        self,
        job: Job,
        grant: Grant,
        size: int,
        pieces: Pieces,
        *,
        number: int | None,
        stop: threading.Event,
    ) -> str | None:
        """
        Send one request; the bytes of a failed request do not count as progress.

        Args:
            number: Of the part; None for the whole file.
        """
        call = Call.PUT_BODY if number is None else Call.PUT_PART
        counted = 0
        stall = StallDetector(self._clock.boottime_s())

        def count(sent: int) -> None:  # in the sending thread
            nonlocal counted
            counted += sent
            self._meter.add_sent(job.id, sent)
            stall.add(sent, self._clock.boottime_s())

        paced = self._bandwidth.paced(pieces(), stop=stop, on_wait=stall.exclude, on_bytes=count)
        exchange = Exchange()
        request = asyncio.create_task(
            self._lanes.send(
                self._objects.put,
                grant,
                paced,
                size,
                call=call,
                now_ms=self._clock.now_ms,
                exchange=exchange,
            )
        )
        try:
            etag = await self._watched(request, exchange, stop)
        except BaseException:
            exchange.cut("it was given up")
            request.cancel()
            self._meter.add_sent(job.id, -counted)
            if stall.stalled:
                self._slots.width.lose_one(self._clock.boottime_s())
            raise
        finally:
            await self._quota.spend(counted)
        self._slots.width.body_succeeded()
        self._budget.worked()
        return etag

    async def _watched(
        self, request: "asyncio.Task[str | None]", exchange: Exchange, stop: threading.Event
    ) -> str | None:
        """
        Wait for the answer to *request*, and adapt the number of slots.

        Raises:
            hashing.Stopped: *stop* was set while the sending thread was blocked.
        """
        while True:
            done, _ = await asyncio.wait({request}, timeout=LOOK_S)
            self._slots.look(
                self._meter.sent, self._clock.boottime_s(), held_to=self._bandwidth.rate
            )
            if done:
                return request.result()
            if stop.is_set():
                raise hashing.Stopped
            exchange.cut_if_stuck()
