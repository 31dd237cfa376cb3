"""
Renews the session that ``syncd login`` stored.

A refresh token is good for one use, so only one process at a time renews the session. It writes its
intent to disk before the call, and the new tokens before anything is sent with them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import structlog

from syncd.clock import Clock
from syncd.config.credential_files import Stored
from syncd.core.jobs import retry_policy
from syncd.core.jobs.error_mapping import to_error
from syncd.errors import ConfigError, JobError, StateFull
from syncd.types import Call, Kind, Session, Tokens

LOCK_POLL_S = 0.1
DISK_FULL_POLL_S = 5.0

SIGN_IN = "Sign in again: syncd login --large-files"


class SessionRenewal:
    """Exchanges the stored session for a new one; *refresh* is the API call."""

    def __init__(
        self, file: Stored, refresh: Callable[[str], Awaitable[Tokens]], clock: Clock
    ) -> None:
        self._file = file
        self._refresh = refresh
        self._clock = clock
        self._stopping = False
        self._log = structlog.get_logger("syncd.cloud.session_renewal")

    def stop_waiting(self) -> None:
        """Give up waits for the lock and for disk space; a call that was sent is still finished."""
        self._stopping = True

    async def renew(self, old: str | None) -> Session:
        """
        Return a session other than the one with the access token *old*.

        Raises:
            JobError: The session cannot be renewed, now or at all.
            StateError: The state directory cannot be written.
        """
        async with self._locked():
            session = await self._stored()
            if session.access != old:  # another process was first
                return session
            if session.refresh is None:
                raise _ended(session)
            await self._write_intent(session)
            tokens = await self._buy(session, session.refresh)
            now_ms = self._clock.now_ms()
            session = replace(
                session,
                access=tokens.access,
                refresh=tokens.refresh,
                begun_at=now_ms,
                expires_at=now_ms + tokens.lifetime_s * 1000,
                refresh_sent_at=None,
            )
            await asyncio.to_thread(self._file.write_session, session)
        self._log.info("session.renewed", lifetime_s=tokens.lifetime_s)
        return session

    async def _write_intent(self, session: Session) -> None:
        """Record that the refresh token is about to be spent, and reserve space for its successor."""
        intent = replace(session, refresh_sent_at=self._clock.now_ms())
        while True:
            try:
                await asyncio.to_thread(self._file.write_session, intent)
                await asyncio.to_thread(self._file.make_room)
            except StateFull as error:
                if self._stopping:
                    raise
                self._log.warning("session.renewal_postponed", error=str(error))
                await self._clock.sleep(DISK_FULL_POLL_S)
            else:
                return

    async def _buy(self, session: Session, refresh_token: str) -> Tokens:
        """Return the new tokens; after a failure restore *session*, or record that it has ended."""
        try:
            return await self._refresh(refresh_token)
        except JobError as error:
            if error.kind is Kind.SESSION_REFUSED:
                dead = replace(session, refresh=None)
                await asyncio.to_thread(self._file.write_session, dead)
                raise _ended(dead) from None
            if not error.unclear:  # otherwise the next try shows whether the token is spent
                await asyncio.to_thread(self._file.write_session, session)
            raise _not_renewed(error) from None

    async def _stored(self) -> Session:
        try:
            session = await asyncio.to_thread(self._file.session)
        except ConfigError as error:
            raise to_error(Kind.SESSION_REFUSED, str(error)) from None
        if session is None:
            raise to_error(Kind.SESSION_REFUSED, "the session was signed out", advice=SIGN_IN)
        return session

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Hold the lock of the session file; each process holds it for one request."""
        while (held := await asyncio.to_thread(self._file.try_lock)) is None:
            if self._stopping:
                raise to_error(Kind.NETWORK, "the session is being renewed by another process")
            await self._clock.sleep(LOCK_POLL_S)
        with held:
            yield


def _not_renewed(error: JobError) -> JobError:
    """Turn *error* of a renewal into one for the request that needed it, which was not sent."""
    is_temporary = retry_policy.row_of(error.kind, Call.REFRESH).then in (
        retry_policy.Next.LATER,
        retry_policy.Next.HOLD,
    )
    return to_error(
        error.kind if is_temporary else Kind.NOT_ALLOWED,
        str(error),
        call=Call.REFRESH,
        retry_after_s=error.retry_after_s,
        timed_out=error.timed_out,
    )


def _ended(session: Session) -> JobError:
    """The error for *session*, whose refresh token cannot be used again."""
    if session.refresh_sent_at is None:
        reason = "the session has ended: the server does not renew it"
    else:
        at = datetime.fromtimestamp(session.refresh_sent_at / 1000).astimezone()
        reason = (
            f"the session has ended: the answer to its renewal of {at:%Y-%m-%d %H:%M} was lost, and "
            "with it the next refresh token"
        )
    return to_error(Kind.SESSION_REFUSED, reason, advice=f"{SIGN_IN}. Nothing else is lost.")
