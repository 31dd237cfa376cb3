"""
Webhook messages about failures and holds, and a heartbeat while everything is uploaded.

A message that cannot be delivered in a few tries is dropped. The HTTP client sends no credential and no
cookies, follows no redirects, and reads only the status of a response. A webhook address may be a secret,
so neither the address nor an error text that may quote it is logged.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import httpx
import structlog

from syncd import __version__
from syncd.clock import Clock
from syncd.cloud import http as wire
from syncd.core.jobs.outcome import End, Outcome
from syncd.core.jobs.retry_policy import backoff_s
from syncd.core.notifications import Failure, Hold, NotificationBatch, headers_for, message
from syncd.executors import Executors
from syncd.monitoring.log import scrub
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.types import Job, printable

POLL_S = 1.0  # between two checks whether a batch is due
HEARTBEAT_S = 300.0  # the shortest time between two heartbeats
SEND_S = 5.0  # the time limit of one request
TRIES = 3
RETRY_FIRST_S, RETRY_MOST_S = 2.0, 10.0

_RETRYABLE_STATUS = frozenset({408, 425, 429})

_log = structlog.get_logger("syncd.monitoring.webhook")


@dataclass(frozen=True, slots=True)
class Receiver:
    """The address in a *setting*; ``shown`` is the part of it that may appear in the log."""

    setting: str
    url: str
    shown: str


@dataclass(frozen=True, slots=True)
class Receivers:
    """The configured receivers; ``key`` signs the messages, ``machine`` names this machine in them."""

    webhook: Receiver | None
    heartbeat: Receiver | None
    key: bytes | None
    machine: str


class WebhookNotifier:
    """
    Collects events and sends them.

    Args:
        jitter: Draws from [0, 1).
        shown_of: Returns the path of a job's file as users see it.
        ca_bundle, proxy: See ``cloud.http.client_arguments``.
    """

    def __init__(
        self,
        receivers: Receivers,
        *,
        store: Store,
        lanes: Executors,
        clock: Clock,
        jitter: Callable[[], float],
        shown_of: Callable[[Job], str],
        ca_bundle: str | None,
        proxy: str | None,
    ) -> None:
        self._receivers = receivers
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._jitter = jitter
        self._shown_of = shown_of
        self._client = {}
        if self.is_configured:
            self._client = wire.client_arguments(ca_bundle=ca_bundle, proxy=proxy)
        self._batch = NotificationBatch()
        self._outbox: list[tuple[str, bytes]] = []
        """Id and body; the id stays the same over all tries, so that a receiver can drop duplicates."""
        self._dropped: dict[str, int] = {}
        self._idle = asyncio.Event()

    @property
    def is_configured(self) -> bool:
        return bool(self._receivers.webhook or self._receivers.heartbeat)

    # -- events; these methods neither wait nor fail ----------------------------------------------

    def job_ended(self, job: Job, outcome: Outcome) -> None:
        if outcome.end in (End.REGISTERED, End.ADOPTED):
            self._batch.add_finished(outcome.end)
        elif outcome.end in (End.FAILED, End.NEEDS_SIGN_IN):
            error, path = outcome.error, _clean(self._shown_of(job))
            advice = _clean(error.advice) if error and error.advice else None
            failure = Failure(path, outcome.end, _clean(str(error or "")), advice)
            self._batch.add_failure(job.id, failure, self._clock.boottime_s())

    def jobs_requeued(self, job_ids: Collection[int]) -> None:
        """Take back the failures of jobs that are retried after all."""
        self._batch.remove_failures(job_ids)

    def hold_started(self, hold: HoldRow) -> None:
        self._batch.add_hold_start(_hold(hold), self._clock.boottime_s())

    def hold_ended(self, hold: HoldRow) -> None:
        ended = _hold(hold, until=self._clock.now_ms())
        self._batch.add_hold_end(ended, self._clock.boottime_s())

    def queue_empty(self) -> None:
        self._batch.add_queue_empty(self._clock.boottime_s())
        self._idle.set()

    # -- sending ----------------------------------------------------------------------------------

    async def run(self, *, all_is_well: Callable[[], Awaitable[bool]] | None) -> None:
        """
        Send messages and heartbeats until cancelled. Raises ``StateError``.

        Args:
            all_is_well: Returns whether every wanted file is in the catalog and nothing blocks.
                None: send no heartbeats.
        """
        async with asyncio.TaskGroup() as both:
            if self._receivers.webhook is not None:
                both.create_task(self._send_batches())
            if all_is_well is not None and (to := self._receivers.heartbeat) is not None:
                both.create_task(self._send_heartbeats(to, all_is_well))

    async def flush(self, *, well: bool, within_s: float) -> None:
        """Send pending messages, and a heartbeat if the run ended *well*, within *within_s*."""
        sending = [self._send_batch()] if self._receivers.webhook is not None else []
        if well and self._receivers.heartbeat is not None:
            sending.append(self._send(self._receivers.heartbeat, None))
        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*sending)
        except TimeoutError:
            _log.warning("webhook.cut_short", unsent=len(self._outbox), seconds=within_s)

    async def _send_batches(self) -> None:
        while True:
            if self._batch.is_due(self._clock.boottime_s()):
                await self._send_batch()
            await self._clock.sleep(POLL_S)

    async def _send_heartbeats(
        self, to: Receiver, all_is_well: Callable[[], Awaitable[bool]]
    ) -> None:
        """Send heartbeats while idle; the dispatcher reports an empty queue twice a minute."""
        while True:
            await self._idle.wait()
            if await all_is_well():
                await self._send(to, None)
                await self._clock.sleep(HEARTBEAT_S)
            self._idle.clear()

    async def _send_batch(self) -> None:
        """Send first the messages that an interrupted batch left, with the ids they have."""
        await self._empty_outbox()
        if self._batch.pending:
            counts = await self._lanes.db(self._store.report.counts)
            now_ms, machine = self._clock.now_ms(), self._receivers.machine
            self._outbox = [  # nothing awaits between take() and this assignment
                (
                    f"msg_{secrets.token_hex(12)}",
                    message(item, machine=machine, now_ms=now_ms, files_by_state=counts),
                )
                for item in self._batch.take(self._clock.boottime_s())
            ]
        await self._empty_outbox()

    async def _empty_outbox(self) -> None:
        while self._outbox and self._receivers.webhook is not None:
            await self._send(self._receivers.webhook, self._outbox[0])
            del self._outbox[0]

    async def _send(self, to: Receiver, item: tuple[str, bytes] | None) -> None:
        """
        Send a message, or a heartbeat (None), and drop it after a few failed tries.

        There is only one try if the previous item was dropped.
        """
        tries = 1 if to.setting in self._dropped else TRIES
        for attempt in range(1, tries + 1):
            reason, retryable = await self._try(to.url, item)
            if reason is None:
                if dropped := self._dropped.pop(to.setting, 0):
                    _log.info("webhook.recovered", setting=to.setting, to=to.shown, dropped=dropped)
                return
            if not retryable or attempt == tries:
                break
            jitter = self._jitter()
            await self._clock.sleep(
                backoff_s(attempt, base_s=RETRY_FIRST_S, cap_s=RETRY_MOST_S, jitter=jitter)
            )
        if to.setting not in self._dropped:
            _log.warning(
                "webhook.dropped", setting=to.setting, to=to.shown, reason=reason, tries=attempt
            )
        self._dropped[to.setting] = self._dropped.get(to.setting, 0) + 1

    async def _try(self, url: str, item: tuple[str, bytes] | None) -> tuple[str | None, bool]:
        """Return why the request failed (None: it did not), and whether a retry may help."""
        method, body = "GET", None
        headers = {"User-Agent": f"syncd/{__version__}"}
        if item is not None:
            method = "POST"
            id_, body = item
            headers |= {"Content-Type": "application/json"}
            headers |= headers_for(
                body, id=id_, now_ms=self._clock.now_ms(), key=self._receivers.key
            )
        try:
            async with (
                asyncio.timeout(SEND_S),
                httpx.AsyncClient(**self._client, timeout=SEND_S) as http,
                http.stream(method, url, content=body, headers=headers) as response,
            ):
                pass  # only the status is of interest
        except httpx.ConnectError as error:
            return f"ConnectError: {error}", True
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            return type(error).__name__, True  # the text may quote the address or the receiver
        if response.is_success:
            return None, False
        reason = f"HTTP {response.status_code}"
        if response.is_redirect:
            reason += " (redirects are not followed)"
        return reason, response.is_server_error or response.status_code in _RETRYABLE_STATUS


def _hold(row: HoldRow, until: int | None = None) -> Hold:
    advice = _clean(row.advice) if row.advice else None
    return Hold(row.kind, row.since, _clean(row.reason), advice, until)


def _clean(text: str) -> str:
    return printable(scrub(text))
