"""
The credential that requests to the API carry.

A device key (``dk-…``) or a user's session token (three base64url segments, a JWT). It comes from a
source that can be read again, since people replace the file while syncd runs. No ``repr`` shows it.
"""

import asyncio
import re
from collections.abc import Callable

from syncd.core.responses import CredentialKind, to_error
from syncd.errors import ConfigError
from syncd.model import Kind

_DEVICE_KEY = re.compile(r"dk-[!-~]+")
_SESSION_TOKEN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")


class Credentials:
    """
    The token in force.

    Args:
        source: Returns the token as it is configured now, or None; may read a small file.
    """

    def __init__(self, source: Callable[[], str | None]) -> None:
        self._source = source
        self._token = source()
        self._refused: str | None = None
        self._reading = asyncio.Lock()

    @property
    def kind(self) -> CredentialKind:
        """``session`` for a user's token, ``device`` for anything else."""
        return "session" if _SESSION_TOKEN.fullmatch(self._token or "") else "device"

    @property
    def is_session(self) -> bool:
        """Does a signed-in user stand behind it, so that large files may be sent?"""
        return self.kind == "session"

    @property
    def token(self) -> str:
        """
        The secret itself.

        Raises:
            NeedsOperator: ``DEVICE_KEY_REFUSED``: there is none, or it is of no kind that may
                upload.
        """
        token = self._token or ""
        if _DEVICE_KEY.fullmatch(token) or _SESSION_TOKEN.fullmatch(token):
            return token
        raise to_error(
            Kind.DEVICE_KEY_REFUSED,
            "there is no device key or session token"
            if not token
            else "the token has no known form",
            advice="Set api.token_file to a file with a device key (dk-...) or a session token.",
        )

    def header(self) -> str:
        """The ``Authorization`` header's value. Raises what ``token`` raises."""
        return f"Bearer {self.token}"

    async def reread(self, refused: str | None) -> bool:
        """
        Read the source again; True if there is now a token other than the *refused* one.

        One at a time: whoever waited behind another reader finds the new token in place already.

        Args:
            refused: The token that a request was turned away with; None if there was none.
        """
        async with self._reading:
            self._refused = refused
            if self._token == refused:
                self._token = await self._read()
            return self._token != refused

    async def take(self, source: Callable[[], str | None]) -> bool:
        """Read the token from *source* from now on; True if it is another one."""
        async with self._reading:
            before, self._source = self._token, source
            self._token = await self._read()
            return self._token != before

    async def changed(self) -> bool:
        """Is there a token other than the last one refused by now? Reads the source again."""
        return await self.reread(self._token if self._refused is None else self._refused)

    async def _read(self) -> str | None:
        """What the source holds, if it is of use: a file half replaced leaves the token in force."""
        try:
            token = await asyncio.to_thread(self._source)
        except ConfigError:
            return self._token
        return token if token is not None and _usable(token) else self._token


def _usable(token: str) -> bool:
    return any(form.fullmatch(token) for form in (_DEVICE_KEY, _SESSION_TOKEN))
