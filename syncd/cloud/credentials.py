"""
The credential of API requests: a device key (``dk-...``) or a user's session token.

Its source can be read again, because the file may be replaced while syncd runs. A stored session is
renewed before it ends. No ``repr`` contains a secret.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable

import structlog

from syncd.clock import Clock, SystemClock
from syncd.cloud.session_renewal import SessionRenewal
from syncd.core.jobs.error_mapping import DEVICE_KEY, SESSION_TOKEN, CredentialKind, to_error
from syncd.errors import ConfigError, JobError
from syncd.types import Kind, Session

RENEW_AHEAD_S = 300.0
"""A session is renewed this long before it ends, or after half of its life if that is later."""

RENEWAL_RETRY_S = 30.0
"""Seconds between two tries to renew a session that is still valid."""

Verify = Callable[[str | None], Awaitable[None]]


class Credentials:
    """
    The current credential.

    Args:
        source: Returns the configured token, the stored session, or None; may read a small file.
        renewal: Renews the stored session; without it a session is used until it ends.
        verify: Awaited before the first use of a credential, with the device key, or None for a
            session. What it raises becomes the error of the request.
    """

    def __init__(
        self,
        source: Callable[[], str | Session | None],
        *,
        renewal: SessionRenewal | None = None,
        verify: Verify | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._source = source
        self._renewal = renewal
        self._verify = verify
        self._clock = clock or SystemClock()
        self._refused: str | None = None
        self._reading = asyncio.Lock()
        self._verifying = asyncio.Lock()
        self._verified: str | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._renew_at_s = self._ends_at_s = 0.0
        self._log = structlog.get_logger("syncd.cloud.credentials")
        self._use(source())

    @property
    def kind(self) -> CredentialKind:
        """``session`` for a user's token, ``device`` for anything else."""
        stored = isinstance(self._current, Session)
        return "session" if stored or SESSION_TOKEN.fullmatch(self._token or "") else "device"

    @property
    def is_session(self) -> bool:
        """Whether a user is signed in, so that large files may be sent."""
        return self.kind == "session"

    @property
    def team_id(self) -> str | None:
        """The team of a stored session; None for a credential that does not name its team."""
        return self._current.team_id if isinstance(self._current, Session) else None

    @property
    def token(self) -> str:
        """
        The secret itself.

        Raises:
            NeedsOperator: ``DEVICE_KEY_REFUSED``: there is none, or it has no known form.
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
        """When the session token ends (Unix seconds), by its own claim; None if it names no end."""
        return ends_at_s(self._token or "") if self.is_session else None

    async def ready(self) -> None:
        """
        Renew a stored session that is about to end, and verify a credential that is new.

        A failed renewal is only logged while the session is still valid.
        """
        await self._renew_if_due()
        # Another credential may be loaded during the verification of this one.
        while self._verify is not None and self._token != self._verified:
            async with self._verifying:
                if (token := self._token) != self._verified:
                    await self._verify(None if self.is_session else token)
                    self._verified = token

    async def reread(self, refused: str | None) -> bool:
        """
        Replace the *refused* token (None: there was none); True if there is another one now.

        The source is read again, and a stored session is renewed. Callers that waited for another
        caller find the new token already in place.
        """
        await self._reload_if(refused)
        if self._token == refused and self._renewable is not None:
            await self._renew(self._renewable)
        return self._token != refused

    async def has_changed(self) -> bool:
        """Read the source again; return whether its token differs from the last refused one."""
        await self._reload_if(self._token if self._refused is None else self._refused)
        return self._token != self._refused

    async def reload(self) -> bool:
        """Read the source again; return whether the credential changed."""
        before = self._token
        async with self._reading:
            await self._read()
        return self._token != before

    async def close(self) -> None:
        """Wait for a running renewal, because its answer must not be lost."""
        if self._renewal is not None:
            self._renewal.stop_waiting()
        if self._renewing is not None:
            await asyncio.wait({self._renewing})

    async def _reload_if(self, refused: str | None) -> None:
        async with self._reading:
            self._refused = refused
            if self._token == refused:
                await self._read()

    async def _read(self) -> None:
        """Use what the source holds, unless it is unchanged or unusable (a half-written file)."""
        try:
            found = await asyncio.to_thread(self._source)
        except ConfigError:
            return
        usable = isinstance(found, Session) or (found is not None and _usable(found))
        if usable and found != self._current:
            self._use(found)

    def _use(self, found: str | Session | None) -> None:
        self._current = found
        self._token = found.access if isinstance(found, Session) else found
        self._renew_at_s = self._ends_at_s = 0.0
        if isinstance(found, Session):
            left_s = (found.expires_at - self._clock.now_ms()) / 1000
            lifetime_s = (found.expires_at - found.begun_at) / 1000
            # From here on the time since boot counts, sleep included: nothing can set that clock.
            self._ends_at_s = self._clock.boottime_s() + left_s
            self._renew_at_s = self._ends_at_s - min(RENEW_AHEAD_S, lifetime_s / 2)

    @property
    def _renewable(self) -> SessionRenewal | None:
        return self._renewal if isinstance(self._current, Session) else None

    async def _renew_if_due(self) -> None:
        now_s = self._clock.boottime_s()
        if self._renewable is None or now_s < self._renew_at_s:
            return
        try:
            await self._renew(self._renewable)
        except JobError as error:
            if now_s >= self._ends_at_s:
                raise
            self._renew_at_s = min(self._ends_at_s, now_s + RENEWAL_RETRY_S)
            self._log.warning("session.renewal_failed", error=str(error), advice=error.advice)

    async def _renew(self, renewal: SessionRenewal) -> None:
        """Renew in a separate task: the cancellation of one job must not lose the answer."""
        if self._renewing is None or self._renewing.done():

            async def renew_and_use(old: str | None) -> None:
                self._use(await renewal.renew(old))

            self._renewing = asyncio.create_task(renew_and_use(self._token))
            # Its callers may all be cancelled: asyncio would then report an exception as unread.
            self._renewing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._renewing)


def ends_at_s(token: str) -> float | None:
    """
    When a session token ends (Unix seconds) by its ``exp`` claim (RFC 7519); None without a claim.

    The claim is not verified: it is shown to users, and nothing depends on it.
    """
    try:
        payload = token.split(".")[1]
        end = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
        return float(end)
    except (ValueError, IndexError, KeyError, TypeError):
        return None


def _usable(token: str) -> bool:
    return any(form.fullmatch(token) for form in (DEVICE_KEY, SESSION_TOKEN))
