"""
A guest's manners: syncd makes room for what the machine is there for.

Niceness and the idle I/O class are asked of the kernel once, for the whole process. While ComfyUI's
queue holds something, sending and hashing are slowed down or held back; it is asked only while there
is anything to slow down. A ComfyUI that does not answer is not busy.
"""

import asyncio
import ctypes
import json
import os
import platform
from dataclasses import dataclass
from typing import Literal

import httpx
import structlog

from syncd.clock import Clock
from syncd.cloud import http as wire
from syncd.monitoring.progress import Meter
from syncd.upload.limits import Bandwidth

ASK_S = 2.0
"""How long ComfyUI is given to answer."""

POLL_S = 2.0
ANSWER_MAX = 64 * 1024

TRICKLE = 64 * 1024
"""Bytes a second that still go out while all is held back: a body that rests is broken off."""

# ioprio_set(2); libc has no name for it.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS, _CLASS_IDLE = 1, 3 << 13

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BusyPolicy:
    """
    What ComfyUI's queue means for syncd.

    Args:
        url: Where ComfyUI answers; None: it is not asked.
        slow_rate: Bytes a second that may be sent, and may be hashed, when that is ``slow``.
    """

    url: str | None
    when_busy: Literal["ignore", "slow", "pause"]
    slow_rate: int

    @property
    def asks(self) -> bool:
        """Does anything depend on the queue?"""
        return self.url is not None and self.when_busy != "ignore"


class ComfyUIThrottle:
    """
    Holds bytes back while ComfyUI has work.

    Args:
        ca_bundle: A PEM file trusted beside the system's certificates.
    """

    def __init__(
        self,
        manner: BusyPolicy,
        *,
        sending: Bandwidth,
        reading: Bandwidth,
        meter: Meter,
        clock: Clock,
        ca_bundle: str | None,
    ) -> None:
        self._manner = manner
        self._sending = sending
        self._reading = reading
        self._meter = meter
        self._clock = clock
        self._ca_bundle = ca_bundle
        self._changed = asyncio.Event()
        self._was_busy = self._silent = False

    def take(self, manner: BusyPolicy) -> None:
        """From now on *manner* counts."""
        if manner != self._manner:
            self._manner = manner
            self._make_room(0)
        self._changed.set()

    async def run(self) -> None:
        """Ask and make room, until cancelled."""
        await self._until_asked()
        arguments = wire.client_arguments(ca_bundle=self._ca_bundle, proxy=None)
        arguments["trust_env"] = False  # no proxy knows the way to it
        async with httpx.AsyncClient(**arguments) as http:
            while True:
                await self._until_asked()
                if self._meter.snapshot().running:
                    await self._look(http)
                await self._clock.sleep(POLL_S)

    async def _until_asked(self) -> None:
        while not self._manner.asks:
            self._changed.clear()
            await self._changed.wait()

    async def _look(self, http: httpx.AsyncClient) -> None:
        manner = self._manner
        try:
            queued = await _queued(http, f"{manner.url}/prompt")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            if not self._silent:
                reason = str(error) or type(error).__name__
                _log.warning("comfyui.unreachable", url=manner.url, reason=reason)
            queued, self._silent = 0, True
        else:
            self._silent = False
        if manner is self._manner:  # else the answer comes too late to matter
            self._make_room(queued)

    def _make_room(self, queued: int) -> None:
        busy = queued > 0
        if busy and self._manner.when_busy == "pause":
            sending, reading = TRICKLE, 0
        else:
            sending = reading = self._manner.slow_rate
        self._sending.at_most(sending if busy else None)
        self._reading.at_most(reading if busy else None)
        if busy and not self._was_busy:
            _log.info("throttle.started", queued=queued, sending=sending, hashing=reading)
        elif self._was_busy and not busy:
            _log.info("throttle.ended")
        self._was_busy = busy


async def _queued(http: httpx.AsyncClient, url: str) -> int:
    """
    How many prompts ComfyUI works on or has still to do.

    See ``GET /prompt`` in "Routes" of ComfyUI's server documentation.

    Raises:
        httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError: It did not tell.
    """
    plain = {"Accept-Encoding": "identity"}
    async with asyncio.timeout(ASK_S), http.stream("GET", url, headers=plain) as response:
        answer = b""
        async for piece in response.aiter_raw():
            answer += piece
            if len(answer) > ANSWER_MAX:
                break
    try:
        queued = json.loads(answer)["exec_info"]["queue_remaining"]
    except (ValueError, KeyError, TypeError, RecursionError):
        queued = None
    if response.status_code != 200 or not isinstance(queued, int):
        raise ValueError(f"HTTP {response.status_code}, and not ComfyUI's answer to GET /prompt")
    return queued


def lower_priority(*, nice: int, idle_io: bool) -> None:
    """
    Let others go first: this process, and all threads that it starts from now on.

    Args:
        nice: Added to the niceness that syncd was started with.
        idle_io: Ask for the idle I/O class. Only schedulers that know classes (BFQ) heed it.
    """
    if nice:
        os.nice(nice)
    if idle_io and (reason := _ask_for_idle_io()) is not None:
        _log.warning("process.io_class_refused", reason=reason)


def _ask_for_idle_io() -> str | None:
    """Why not, if not."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return f"it is not known how to ask the kernel on {platform.machine()}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE) != 0:
        return os.strerror(ctypes.get_errno())
    return None
