"""
Lowers the priority of the process, and slows down or stops uploads while ComfyUI is busy.

Niceness and the idle I/O class are set once, for the whole process. ComfyUI's queue is polled only
while a job runs. A ComfyUI that does not answer counts as idle.
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
"""Timeout for an answer of ComfyUI."""

POLL_S = 2.0
ANSWER_MAX = 64 * 1024

TRICKLE = 64 * 1024
"""Bytes a second that are sent even while uploads are stopped: an idle connection would be closed."""

# ioprio_set(2); libc has no name for it.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS, _CLASS_IDLE = 1, 3 << 13

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BusyPolicy:
    """
    How syncd reacts to prompts in ComfyUI's queue.

    Args:
        url: ComfyUI's address; None: it is not polled.
        slow_rate: The limit for ``slow``, in bytes a second, for sending and for hashing.
    """

    url: str | None
    when_busy: Literal["ignore", "slow", "pause"]
    slow_rate: int

    @property
    def asks(self) -> bool:
        return self.url is not None and self.when_busy != "ignore"


class ComfyUIThrottle:
    """
    Limits sending and hashing while ComfyUI works.

    Args:
        ca_bundle: A PEM file that is trusted in addition to the system's certificates.
    """

    def __init__(
        self,
        policy: BusyPolicy,
        *,
        sending: Bandwidth,
        reading: Bandwidth,
        meter: Meter,
        clock: Clock,
        ca_bundle: str | None,
    ) -> None:
        self._policy = policy
        self._sending = sending
        self._reading = reading
        self._meter = meter
        self._clock = clock
        self._ca_bundle = ca_bundle
        self._changed = asyncio.Event()
        self._was_busy = self._silent = False

    def take(self, policy: BusyPolicy) -> None:
        """Use *policy* from now on."""
        if policy != self._policy:
            self._policy = policy
            self._limit(0)
        self._changed.set()

    async def run(self) -> None:
        """Poll ComfyUI until cancelled."""
        await self._until_enabled()
        arguments = wire.client_arguments(ca_bundle=self._ca_bundle, proxy=None)
        arguments["trust_env"] = False  # it runs on this machine or network
        async with httpx.AsyncClient(**arguments) as http:
            while True:
                await self._until_enabled()
                if self._meter.snapshot().running:
                    await self._look(http)
                await self._clock.sleep(POLL_S)

    async def _until_enabled(self) -> None:
        while not self._policy.asks:
            self._changed.clear()
            await self._changed.wait()

    async def _look(self, http: httpx.AsyncClient) -> None:
        policy = self._policy
        try:
            queued = await _queued(http, f"{policy.url}/prompt")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            if not self._silent:
                reason = str(error) or type(error).__name__
                _log.warning("comfyui.unreachable", url=policy.url, reason=reason)
            queued, self._silent = 0, True
        else:
            self._silent = False
        if policy is self._policy:  # else the policy has changed since
            self._limit(queued)

    def _limit(self, queued: int) -> None:
        busy = queued > 0
        if busy and self._policy.when_busy == "pause":
            sending, reading = TRICKLE, 0
        else:
            sending = reading = self._policy.slow_rate
        self._sending.at_most(sending if busy else None)
        self._reading.at_most(reading if busy else None)
        if busy and not self._was_busy:
            _log.info("throttle.started", queued=queued, sending=sending, hashing=reading)
        elif self._was_busy and not busy:
            _log.info("throttle.ended")
        self._was_busy = busy


async def _queued(http: httpx.AsyncClient, url: str) -> int:
    """
    The number of prompts that ComfyUI runs or has queued.

    See ``GET /prompt`` in "Routes" of ComfyUI's server documentation.

    Raises:
        httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError: It gave no usable answer.
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
    Lower the priority of this process and of all threads that it starts later.

    Args:
        nice: Added to the niceness of the process.
        idle_io: Set the idle I/O class; only some schedulers (BFQ) support it.
    """
    if nice:
        os.nice(nice)
    if idle_io and (reason := _set_idle_io()) is not None:
        _log.warning("process.io_class_refused", reason=reason)


def _set_idle_io() -> str | None:
    """Set the idle I/O class; the reason if the kernel refuses."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return f"syncd does not know the system call on {platform.machine()}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE) != 0:
        return os.strerror(ctypes.get_errno())
    return None
