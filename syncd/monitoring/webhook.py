"""
Tells somebody elsewhere how it goes: messages to a webhook, and a heartbeat while all is well.

Nothing waits for either. What cannot be delivered in a few tries is dropped, and the log says so
once. The client is a bare one: no credential of the cloud, no cookies, no redirects, and of an
answer nothing but its status is read. An address may be a secret (its path is what lets us in), so
neither it nor a text that may quote it is logged.
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
from syncd.core.notifications import Failure, NotificationBatch, Waiting, message, signed
from syncd.executors import Executors
from syncd.monitoring.log import scrub
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.types import Job, printable

LOOK_S = 1.0
"""Between looks whether there is something to tell."""

HEARTBEAT_S = 300.0
"""Between two heartbeats, at least."""

SEND_S = 5.0
"""How long a receiver is given for one request."""

TRIES = 3
RETRY_FIRST_S, RETRY_MOST_S = 2.0, 10.0

_WORTH_ANOTHER_TRY = frozenset({408, 425, 429})

_Request = Callable[[httpx.AsyncClient, str], httpx.Request]

_log = structlog.get_logger("syncd.monitoring.webhook")


@dataclass(frozen=True, slots=True)
class Receiver:
    """
    Somebody who is told.

    Args:
        setting: Where the address was set.
        url: The address.
        shown: What may be seen of it.
    """

    setting: str
    url: str
    shown: str


@dataclass(frozen=True, slots=True)
class Receivers:
    """
    Who is told.

    Args:
        webhook, heartbeat: None: nobody.
        key: Signs the messages.
        machine: What this machine is called in them.
    """

    webhook: Receiver | None
    heartbeat: Receiver | None
    key: bytes | None
    machine: str


@dataclass(frozen=True, slots=True)
class _Letter:
    """A message that keeps its id over all tries, by which a receiver knows a repeated one."""

    id: str
    body: bytes


class WebhookNotifier:
    """
    Gathers what happens and tells it.

    Args:
        jitter: Draws from [0, 1).
        shown_of: A job's file as a person is told of it.
        ca_bundle, proxy: As for ``wire.client_arguments``.
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
        self._client = (
            wire.client_arguments(ca_bundle=ca_bundle, proxy=proxy) if self.is_heard else {}
        )
        self._news = NotificationBatch()
        self._outbox: list[_Letter] = []
        self._dropped: dict[str, int] = {}
        self._idle = asyncio.Event()

    @property
    def is_heard(self) -> bool:
        """Is there anybody to tell?"""
        return bool(self._receivers.webhook or self._receivers.heartbeat)

    # -- what happens; none of these waits, and none fails -----------------------------------------

    def job_ended(self, job: Job, outcome: Outcome) -> None:
        """A worker let go of *job*."""
        if outcome.end in (End.REGISTERED, End.ADOPTED):
            self._news.came(outcome.end)
        elif outcome.end in (End.FAILED, End.NEEDS_SIGN_IN):
            error = outcome.error
            failure = Failure(
                _clean(self._shown_of(job)),
                outcome.end,
                _clean(str(error)) if error else "",
                _clean(error.advice) if error and error.advice else None,
            )
            self._news.failed(job.id, failure, self._clock.boottime_s())

    def given_back(self, job_ids: Collection[int]) -> None:
        """These failed for a reason that was not theirs, and are tried again."""
        self._news.given_back(job_ids)

    def hold_began(self, hold: HoldRow) -> None:
        """Everything waits."""
        self._news.hold_began(_waiting(hold), self._clock.boottime_s())

    def hold_ended(self, hold: HoldRow) -> None:
        """What everything waited for is over."""
        waiting = _waiting(hold, until=self._clock.now_ms())
        self._news.hold_ended(waiting, self._clock.boottime_s())

    def queue_empty(self) -> None:
        """Nothing is queued or under way."""
        self._news.queue_empty(self._clock.boottime_s())
        self._idle.set()

    # -- telling it --------------------------------------------------------------------------------

    async def run(self, *, all_is_well: Callable[[], Awaitable[bool]] | None) -> None:
        """
        Tell what happens, and that all is well, until cancelled.

        Args:
            all_is_well: Is every wanted file in the catalog, and nothing in the way? None: nobody is
                told that.

        Raises:
            StateError: The store cannot be read.
        """
        async with asyncio.TaskGroup() as both:
            if self._receivers.webhook is not None:
                both.create_task(self._tell())
            if all_is_well is not None and self._receivers.heartbeat is not None:
                both.create_task(self._beat(all_is_well))

    async def last_words(self, *, well: bool, within_s: float) -> None:
        """Tell what was not told yet, and if the run ended *well* that it did, within *within_s*."""
        telling = [self._post_news()] if self._receivers.webhook is not None else []
        if well and self._receivers.heartbeat is not None:
            telling.append(self._send_heartbeat())
        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*telling)
        except TimeoutError:
            _log.warning("webhook.cut_short", unsent=len(self._outbox), seconds=within_s)

    async def _tell(self) -> None:
        while True:
            if self._news.is_due(self._clock.boottime_s()):
                await self._post_news()
            await self._clock.sleep(LOOK_S)

    async def _beat(self, all_is_well: Callable[[], Awaitable[bool]]) -> None:
        """The dispatcher says at least twice a minute that the queue is empty, while it is."""
        while True:
            await self._idle.wait()
            if await all_is_well():
                await self._send_heartbeat()
                await self._clock.sleep(HEARTBEAT_S)
            self._idle.clear()

    async def _post_news(self) -> None:
        """What a stop left in the outbox goes first, under the ids it has."""
        await self._empty_outbox()
        if self._news.pending:
            counts = await self._lanes.db(self._store.report.counts)
            self._outbox = [  # nothing waits between here and the taking
                _Letter(
                    f"msg_{secrets.token_hex(12)}",
                    message(
                        item,
                        machine=self._receivers.machine,
                        now_ms=self._clock.now_ms(),
                        files_by_state=counts,
                    ),
                )
                for item in self._news.take(self._clock.boottime_s())
            ]
        await self._empty_outbox()

    async def _empty_outbox(self) -> None:
        while self._outbox:
            await self._post(self._outbox[0])
            del self._outbox[0]

    async def _post(self, letter: _Letter) -> None:
        def request(http: httpx.AsyncClient, url: str) -> httpx.Request:
            headers = signed(
                letter.body, id=letter.id, now_ms=self._clock.now_ms(), key=self._receivers.key
            )
            headers["Content-Type"] = "application/json"
            return http.build_request("POST", url, content=letter.body, headers=headers)

        assert self._receivers.webhook is not None, "else there is nothing to post"
        await self._send(self._receivers.webhook, request)

    async def _send_heartbeat(self) -> None:
        assert self._receivers.heartbeat is not None, "else there is nobody to hear it"
        await self._send(
            self._receivers.heartbeat, lambda http, url: http.build_request("GET", url)
        )

    async def _send(self, to: Receiver, request: _Request) -> None:
        """A few tries, or one where the last message was dropped; then this one is, too."""
        tries = 1 if to.setting in self._dropped else TRIES
        for attempt in range(1, tries + 1):
            reason, again = await self._try(to.url, request)
            if reason is None:
                self._delivered(to)
                return
            if not again or attempt == tries:
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

    def _delivered(self, to: Receiver) -> None:
        dropped = self._dropped.pop(to.setting, 0)
        if dropped:
            _log.info("webhook.recovered", setting=to.setting, to=to.shown, dropped=dropped)

    async def _try(self, url: str, request: _Request) -> tuple[str | None, bool]:
        """Why it was not taken (None: it was), and whether another try may do better."""
        agent = {"User-Agent": f"syncd/{__version__}"}
        try:
            async with (
                asyncio.timeout(SEND_S),
                httpx.AsyncClient(**self._client, headers=agent, timeout=SEND_S) as http,
            ):
                response = await http.send(request(http, url), stream=True)
                await response.aclose()
        except httpx.ConnectError as error:
            return f"ConnectError: {error}", True
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            return type(error).__name__, True  # its text may quote the address, or the receiver
        if response.is_success:
            return None, False
        said = f"HTTP {response.status_code}"
        if response.is_redirect:
            said += ", a redirect, and those are not followed"
        return said, response.is_server_error or response.status_code in _WORTH_ANOTHER_TRY


def _waiting(hold: HoldRow, until: int | None = None) -> Waiting:
    advice = _clean(hold.advice) if hold.advice else None
    return Waiting(hold.kind, hold.since, _clean(hold.reason), advice, until)


def _clean(text: str) -> str:
    return printable(scrub(text))
