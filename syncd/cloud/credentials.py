"""
The credential that requests to the API carry, and how it comes about.

A device key (``dk-…``) or a user's session token comes from a source that can be read again, since
people replace the file while syncd runs. A session that ``syncd login`` stored is renewed here: its
refresh token is good for one use, so one process at a time renews, says beforehand that it will,
and has the next tokens on disk before anything is sent with them. No ``repr`` shows a secret.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import structlog

from syncd.clock import Clock, SystemClock
from syncd.core.jobs import retry_policy
from syncd.core.jobs.error_mapping import DEVICE_KEY, SESSION_TOKEN, CredentialKind, to_error
from syncd.errors import ConfigError, JobError, NeedsOperator, Permanent, StateError, StateFull
from syncd.types import Call, Kind, Pairing, Session, Tokens

RENEW_AHEAD_S = 300.0
"""A session is renewed when less than this is left of it, or half of its life if that is less."""

RENEW_AGAIN_S = 30.0
"""Between two tries to renew a session that can still be used."""

LOCK_LOOK_S = 0.1
ROOM_LOOK_S = 5.0
"""Between looks whether another process is done, and whether the disk has room again."""

POLL_LEAST_S, POLL_MOST_S = 1.0, 60.0
PAIRINGS_MAX = 3
"""Codes in a row that may turn out to be void before a person has to begin again."""

SIGN_IN = "Sign in again: syncd login --large-files"

Renew = Callable[[str], Awaitable[Tokens]]
Prove = Callable[[str | None], Awaitable[None]]


class Keeper(Protocol):
    """Where a session is kept; ``syncd.config.loader.Stored`` tells what each member promises."""

    def session(self) -> Session | None: ...
    def try_lock(self) -> AbstractContextManager[object] | None: ...
    def make_room(self) -> None: ...
    def write_session(self, session: Session) -> None: ...


class Credentials:
    """
    The credential in force.

    Args:
        source: Returns the token as it is configured now, the session that is stored, or None; may
            read a small file.
        keeper: Where the stored session is renewed.

    ``renew`` is to be set to the call that buys new tokens for a refresh token, before a stored
    session is used. ``prove``, if set, is awaited before a credential is used for the first time, with
    the device key, or None for a session; the error that it raises is that of the request.
    """

    renew: Renew | None = None
    prove: Prove | None = None

    def __init__(
        self,
        source: Callable[[], str | Session | None],
        *,
        keeper: Keeper | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._source = source
        self._keeper = keeper
        self._clock = clock or SystemClock()
        self._refused: str | None = None
        self._reading = asyncio.Lock()
        self._proving = asyncio.Lock()
        self._proved: str | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._leaving = False
        self._renew_at_s = self._ends_at_s = 0.0
        self._log = structlog.get_logger("syncd.cloud.credentials")
        self._take(source())

    @property
    def kind(self) -> CredentialKind:
        """``session`` for a user's token, ``device`` for anything else."""
        stored = isinstance(self._current, Session)
        return "session" if stored or SESSION_TOKEN.fullmatch(self._token or "") else "device"

    @property
    def is_session(self) -> bool:
        """Does a signed-in user stand behind it, so that large files may be sent?"""
        return self.kind == "session"

    @property
    def team_id(self) -> str | None:
        """The team of a stored session; None for what says nothing of its team."""
        return self._current.team_id if isinstance(self._current, Session) else None

    @property
    def token(self) -> str:
        """
        The secret itself.

        Raises:
            NeedsOperator: ``DEVICE_KEY_REFUSED``: there is none, or it is of no kind that may
                upload.
        """
        token = self._token or ""
        if isinstance(self._current, Session) or _usable(token):
            return token
        raise to_error(
            Kind.DEVICE_KEY_REFUSED,
            "there is no device key or session token"
            if not token
            else "the token has no known form",
            advice="Sign in: syncd login (or set api.token_file to a file with a device key).",
        )

    @property
    def ends_at_s(self) -> float | None:
        """When the session token says that its life ends (Unix seconds); None if it has no such end."""
        return ends_at_s(self._token or "") if self.is_session else None

    def header(self) -> str:
        """The ``Authorization`` header's value. Raises what ``token`` raises."""
        return f"Bearer {self.token}"

    async def ready(self) -> None:
        """
        Renew a stored session that is about to end, and see that what is new may be used.

        Trouble with a renewal is of no account as long as there is something left of the session.

        Raises:
            JobError: It has ended and was not renewed, or ``prove`` raised it.
            StateError: The state directory cannot be written.
        """
        await self._renew_in_time()
        while self.prove is not None and self._token != self._proved:  # it may change meanwhile
            async with self._proving:
                if (token := self._token) != self._proved:
                    await self.prove(None if self.is_session else token)
                    self._proved = token

    async def _renew_in_time(self) -> None:
        now_s = self._clock.boottime_s()
        if not self._renewable or now_s < self._renew_at_s:
            return
        try:
            await self._renewed(self._token)
        except JobError as error:
            if now_s >= self._ends_at_s:
                raise
            self._renew_at_s = min(self._ends_at_s, now_s + RENEW_AGAIN_S)
            self._log.warning("session.renewal_failed", error=str(error), advice=error.advice)

    async def reread(self, refused: str | None) -> bool:
        """
        Get another token than the *refused* one; True if there is one now.

        The source is read again, and a stored session renewed. One at a time: whoever waited behind
        another finds the new token in place already.

        Args:
            refused: The token that a request was turned away with; None if there was none.

        Raises:
            JobError: The session could not be renewed.
        """
        await self._look(refused)
        if self._token == refused and self._renewable:
            await self._renewed(self._token)
        return self._token != refused

    async def changed(self) -> bool:
        """Is there a token other than the last one refused by now? Reads the source again."""
        await self._look(self._token if self._refused is None else self._refused)
        return self._token != self._refused

    async def look(self) -> bool:
        """Read the source again; True if another credential is in force than before."""
        before = self._token
        async with self._reading:
            await self._read()
        return self._token != before

    async def settled(self) -> None:
        """Wait for a renewal that is under way: its answer must not be lost to an orderly end."""
        self._leaving = True
        if self._renewal is not None:
            await asyncio.wait({self._renewal})

    @property
    def _renewable(self) -> bool:
        """Is it a stored session? One that is not stored yet lasts as long as it lasts."""
        return self._keeper is not None and isinstance(self._current, Session)

    async def _look(self, refused: str | None) -> None:
        async with self._reading:
            self._refused = refused
            if self._token == refused:
                await self._read()

    def _take(self, found: str | Session | None) -> None:
        self._current = found
        self._token = found.access if isinstance(found, Session) else found
        self._renew_at_s = self._ends_at_s = 0.0
        if isinstance(found, Session):
            left_s = (found.expires_at - self._clock.now_ms()) / 1000
            whole_s = (found.expires_at - found.begun_at) / 1000
            # From here on time is what has passed since boot, sleep included: nobody sets that.
            self._ends_at_s = self._clock.boottime_s() + left_s
            self._renew_at_s = self._ends_at_s - min(RENEW_AHEAD_S, whole_s / 2)

    async def _read(self) -> None:
        """Take what the source holds, if it is news and of use: not a file that is half replaced."""
        try:
            found = await asyncio.to_thread(self._source)
        except ConfigError:
            return
        usable = isinstance(found, Session) or (found is not None and _usable(found))
        if usable and found != self._current:
            self._take(found)

    # -- renewal ---------------------------------------------------------------------------------

    async def _renewed(self, old: str | None) -> None:
        """
        Put another session in the place of the one with the access token *old*.

        A task of its own: a job that is taken away meanwhile must not take the answer with it.
        """
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(old))
            self._renewal.add_done_callback(_noticed)
        await asyncio.shield(self._renewal)

    async def _renew(self, old: str | None) -> None:
        assert self._keeper is not None, "a stored session has its keeper"
        async with self._alone(self._keeper):
            session = await self._kept(self._keeper)
            if session.access != old:  # another process was first
                self._take(session)
                return
            if session.refresh is None:
                raise _ended(session)
            await self._announce(self._keeper, session)
            tokens = await self._bought(self._keeper, session, session.refresh)
            now_ms = self._clock.now_ms()
            session = replace(
                session,
                access=tokens.access,
                refresh=tokens.refresh,
                begun_at=now_ms,
                expires_at=now_ms + tokens.lifetime_s * 1000,
                refresh_sent_at=None,
            )
            await asyncio.to_thread(self._keeper.write_session, session)
            self._take(session)
        self._log.info("session.renewed", lifetime_s=tokens.lifetime_s)

    async def _announce(self, keeper: Keeper, session: Session) -> None:
        """Write down that the refresh token is about to be spent, with room for what comes back."""
        intent = replace(session, refresh_sent_at=self._clock.now_ms())
        while True:
            try:
                await asyncio.to_thread(keeper.write_session, intent)
                await asyncio.to_thread(keeper.make_room)
            except StateFull as error:
                if self._leaving:
                    raise
                self._log.warning("session.renewal_postponed", error=str(error))
                await self._clock.sleep(ROOM_LOOK_S)
            else:
                return

    async def _bought(self, keeper: Keeper, session: Session, refresh: str) -> Tokens:
        """The next tokens. After a failure *session* is put back, or written down as dead."""
        assert self.renew is not None, "set before a session is used"
        try:
            return await self.renew(refresh)
        except JobError as error:
            if error.kind is Kind.SESSION_REFUSED:
                dead = replace(session, refresh=None)
                await asyncio.to_thread(keeper.write_session, dead)
                raise _ended(dead) from None
            if not error.unclear:  # else the next try tells: it is answered, or the token is spent
                await asyncio.to_thread(keeper.write_session, session)
            raise _not_renewed(error) from None

    async def _kept(self, keeper: Keeper) -> Session:
        try:
            session = await asyncio.to_thread(keeper.session)
        except ConfigError as error:
            raise to_error(Kind.SESSION_REFUSED, str(error)) from None
        if session is None:
            raise to_error(Kind.SESSION_REFUSED, "the session was signed out", advice=SIGN_IN)
        return session

    @asynccontextmanager
    async def _alone(self, keeper: Keeper) -> AsyncIterator[None]:
        """Hold the lock of the installation; whoever has it has it for one request."""
        while (held := await asyncio.to_thread(keeper.try_lock)) is None:
            if self._leaving:
                raise to_error(Kind.NETWORK, "the session is being renewed by another process")
            await self._clock.sleep(LOCK_LOOK_S)
        with held:
            yield


def _not_renewed(error: JobError) -> JobError:
    """*error* of a renewal, for the request that wanted it: that one was not even sent."""
    passes = retry_policy.row_of(error.kind, Call.REFRESH).then in (
        retry_policy.Next.LATER,
        retry_policy.Next.HOLD,
    )
    return to_error(
        error.kind if passes else Kind.NOT_ALLOWED,
        str(error),
        call=Call.REFRESH,
        retry_after_s=error.retry_after_s,
        timed_out=error.timed_out,
    )


def _ended(session: Session) -> JobError:
    """Why *session*, whose refresh token is of no more use, cannot be renewed."""
    if session.refresh_sent_at is None:
        reason = "the session has ended: the server renews it no more"
    else:
        at = datetime.fromtimestamp(session.refresh_sent_at / 1000).astimezone()
        reason = (
            f"the session has ended: the answer to its renewal of {at:%Y-%m-%d %H:%M} was lost, and "
            "with it the token that would renew it now"
        )
    return to_error(Kind.SESSION_REFUSED, reason, advice=f"{SIGN_IN}. Nothing else is lost.")


def _noticed(task: "asyncio.Task[None]") -> None:
    """Whoever waited for it knows how it ended; if nobody is left, nobody needs to."""
    if not task.cancelled():
        task.exception()


def ends_at_s(token: str) -> float | None:
    """
    When a session token ends by its own word (``exp`` of RFC 7519), Unix seconds; None: no word.

    It is not verified: people are shown it, nothing is decided by it.
    """
    try:
        payload = token.split(".")[1]
        end = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
        return float(end)
    except (ValueError, IndexError, KeyError, TypeError):
        return None


def _usable(token: str) -> bool:
    return any(form.fullmatch(token) for form in (DEVICE_KEY, SESSION_TOKEN))


# -- pairing -------------------------------------------------------------------------------------


class PairingCalls(Protocol):
    """The two calls of a pairing; ``syncd.cloud.client.CloudClient`` has them."""

    async def start_pairing(self) -> Pairing: ...
    async def poll_pairing(self, device_code: str) -> str | None: ...


class NotPaired(NeedsOperator):
    """Nobody confirmed the code, or it was void each time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind=Kind.DEVICE_KEY_REFUSED)


async def pair(
    calls: PairingCalls,
    *,
    keep: Callable[[str], None],
    show: Callable[[Pairing], None],
    tell: Callable[[str], None],
    clock: Clock,
) -> None:
    """
    Get a device key, which its user confirms in a browser; *keep* is called with it at once.

    The key is handed over once only, so neither an answer that is lost nor Ctrl-C stands between
    it and *keep* where that can be helped.

    Args:
        show: Called with each pairing, whose address and code a person needs.
        tell: Called with what a person ought to know on the way.

    Raises:
        NotPaired: Nobody confirmed in time, or three codes in a row were void.
        JobError: The cloud cannot be asked.
        StateError: The key came and could not be kept.
    """
    for _ in range(PAIRINGS_MAX):
        pairing = await calls.start_pairing()
        show(pairing)
        if await _confirmed(calls, pairing, keep=keep, tell=tell, clock=clock):
            return
    raise NotPaired(f"{PAIRINGS_MAX} codes in a row were void. Run syncd login again.")


async def _confirmed(
    calls: PairingCalls,
    pairing: Pairing,
    *,
    keep: Callable[[str], None],
    tell: Callable[[str], None],
    clock: Clock,
) -> bool:
    """Poll until the key is kept (True) or the code turns out to be void (False)."""
    wait_s = max(POLL_LEAST_S, float(pairing.interval_s))
    until_s = clock.boottime_s() + pairing.lifetime_s
    lost = False
    while clock.boottime_s() + wait_s < until_s:
        await clock.sleep(wait_s)
        try:
            if await _whole(_collected(calls, pairing.device_code, keep)):
                return True
        except Permanent:
            tell(_why_void(lost=lost))
            return False
        except JobError as error:
            if error.kind is Kind.API_THROTTLED:
                wait_s = min(POLL_MOST_S, wait_s * 2)
            elif isinstance(error, NeedsOperator):
                raise
            lost = lost or error.unclear
    raise NotPaired(
        f"Nobody confirmed the code within {round(pairing.lifetime_s / 60)} minutes, so it is void. "
        "Run syncd login again." + (f" {_LOST}" if lost else "")
    )


_LOST = (
    "One of the server's answers was lost on the way. If you had confirmed by then, the key was in "
    "it: an unused device is left on the account, which the Access page of the dashboard removes."
)


def _why_void(*, lost: bool) -> str:
    reason = "The server does not know the code any more: it has expired, or its key was collected."
    return f"{reason} {_LOST} Here is a new code." if lost else f"{reason} Here is a new one."


async def _collected(calls: PairingCalls, device_code: str, keep: Callable[[str], None]) -> bool:
    key = await calls.poll_pairing(device_code)
    if key is None:
        return False
    try:
        keep(key)
    except StateError as error:
        raise StateError(
            f"{error}. The key is lost with it: remove the unused device on the Access page of the "
            "dashboard, mend that, and run syncd login again."
        ) from None
    return True


async def _whole(collecting: Awaitable[bool]) -> bool:
    """Carry it to its end even if whoever waits is cancelled in between."""
    task = asyncio.ensure_future(collecting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(JobError):
            await task
        raise
