"""
Signing in: the calls that carry no credential, and pairing a device.

The requests here identify the user or device in their body.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from syncd.clock import Clock
from syncd.cloud.transport import Transport
from syncd.cloud.validation import device_key_of, from_json, pairing_of, tokens_of
from syncd.errors import JobError, NeedsOperator, Permanent, StateError
from syncd.types import Call, Kind, Pairing, Tokens

T = TypeVar("T")

POLL_MIN_S, POLL_MAX_S = 1.0, 60.0
PAIRINGS_MAX = 3
"""Codes in a row that may become void before the user has to run the command again."""


async def login(transport: Transport, email: str, password: str) -> Tokens:
    """Start a session of the user; every refusal is the same ``SESSION_REFUSED``."""
    body = {"email_address": email, "user_password": password}
    return await _post(transport, Call.LOGIN, "/auth/login", body, tokens_of)


async def refresh(transport: Transport, refresh_token: str) -> Tokens:
    """Exchange *refresh_token*, which is spent by it, for new tokens; not repeated while unclear."""
    body = {"refresh_token": refresh_token}
    return await _post(transport, Call.REFRESH, "/auth/refresh", body, tokens_of)


async def start_pairing(transport: Transport) -> Pairing:
    return await _post(transport, Call.PAIR_START, "/desktop/pair/start", None, pairing_of)


async def poll_pairing(transport: Transport, device_code: str) -> str | None:
    """
    Return the device key, which is handed over once, or None while the code is not confirmed.

    Not repeated while unclear: the answer that was lost may have contained the key.

    Raises:
        Permanent: The pairing is over: it has expired, or its key was collected.
    """
    body = {"device_code": device_code}
    return await _post(transport, Call.PAIR_POLL, "/desktop/pair/poll", body, device_key_of)


async def _post(
    transport: Transport,
    call: Call,
    path: str,
    body: dict[str, str] | None,
    read: Callable[[dict[str, Any]], T],
) -> T:
    return await transport.send(call, "POST", path, body, read=from_json(read), credential=None)


async def pair(
    transport: Transport,
    *,
    keep: Callable[[str], None],
    show: Callable[[Pairing], None],
    report: Callable[[str], None],
    clock: Clock,
) -> None:
    """
    Get a device key that the user confirms in a browser, and give it to *keep* at once.

    The server hands the key over only once. A lost answer does not end the pairing, and a
    cancellation (Ctrl-C) waits until a key that has arrived is kept.

    Args:
        show: Called with each pairing: the user needs its address and code.
        report: Called with messages for the user.

    Raises:
        NeedsOperator: The code was not confirmed in time, or three codes in a row became void.
        JobError: The cloud cannot be reached, or refused the call.
        StateError: The key arrived and could not be kept.
    """
    for _ in range(PAIRINGS_MAX):
        pairing = await start_pairing(transport)
        show(pairing)
        if await _wait_for_key(transport, pairing, keep=keep, report=report, clock=clock):
            return
    raise _not_paired(f"{PAIRINGS_MAX} codes in a row became void. Run syncd login again.")


async def _wait_for_key(
    transport: Transport,
    pairing: Pairing,
    *,
    keep: Callable[[str], None],
    report: Callable[[str], None],
    clock: Clock,
) -> bool:
    """Poll until the key is kept (True) or the code becomes void (False)."""
    wait_s = max(POLL_MIN_S, float(pairing.interval_s))
    until_s = clock.boottime_s() + pairing.lifetime_s
    answer_lost = False
    while clock.boottime_s() + wait_s < until_s:
        await clock.sleep(wait_s)
        try:
            if await _uncancelled(_collect_key(transport, pairing.device_code, keep)):
                return True
        except Permanent:
            lost = f" {_ANSWER_LOST}" if answer_lost else ""
            report(f"The code is void: it has expired, or its key was collected.{lost} A new code:")
            return False
        except JobError as error:
            if error.kind is Kind.API_THROTTLED:
                wait_s = min(POLL_MAX_S, wait_s * 2)
            elif isinstance(error, NeedsOperator):
                raise
            answer_lost = answer_lost or error.unclear
    raise _not_paired(
        f"The code was not confirmed within {round(pairing.lifetime_s / 60)} minutes and is void. "
        "Run syncd login again." + (f" {_ANSWER_LOST}" if answer_lost else "")
    )


def _not_paired(message: str) -> NeedsOperator:
    return NeedsOperator(message, kind=Kind.DEVICE_KEY_REFUSED)


_ANSWER_LOST = (
    "An answer of the server was lost. If you had already confirmed the code, that answer contained "
    "the key, and the account has an unused device: remove it on the Access page of the dashboard."
)


async def _collect_key(transport: Transport, device_code: str, keep: Callable[[str], None]) -> bool:
    key = await poll_pairing(transport, device_code)
    if key is None:
        return False
    try:
        keep(key)
    except StateError as error:
        raise StateError(
            f"{error}. The new key is lost: fix this problem, remove the unused device on the "
            "Access page of the dashboard, and run syncd login again."
        ) from None
    return True


async def _uncancelled(collecting: Awaitable[bool]) -> bool:
    """Finish *collecting* even if this task is cancelled."""
    task = asyncio.ensure_future(collecting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(JobError):
            await task
        raise
