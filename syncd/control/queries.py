"""The requests that change nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from syncd import __version__
from syncd.control.context import ControlContext, Refusal, bad
from syncd.monitoring import status as overview
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.types import HoldKind

EVENT_S = 1.0  # between two events of a stream
STREAMS_MAX = 16
FILES_MAX = 10_000

FRESH_S = 0.5
COST = 20
"""The store is read again after ``FRESH_S`` or ``COST`` times as long as the last read took."""

NOT_READY = frozenset({HoldKind.ROOT, HoldKind.OPERATOR})
"""Holds that an operator must end before syncd is ready."""


class StatusCache:
    """The state of the store, read in a thread and cached for longer the more a read costs."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._standing = overview.NOTHING
        self._fresh_until_s = 0.0
        self._reading = asyncio.Lock()

    def forget(self) -> None:
        """Read the store again for the next request."""
        self._fresh_until_s = 0.0

    async def standing(self) -> overview.StatusSummary:
        """The state, which may be slightly old."""
        async with self._reading:
            now_s = self._context.clock.boottime_s()
            if now_s >= self._fresh_until_s:
                self._standing = await asyncio.to_thread(_read, self._context.state_dir)
                took_s = self._context.clock.boottime_s() - now_s
                self._fresh_until_s = now_s + took_s + max(FRESH_S, COST * took_s)
            hold = self._context.state_hold()
            holds = self._standing.holds
            return self._standing._replace(holds=holds if hold is None else [*holds, hold])

    async def document(self) -> dict[str, Any]:
        context, standing = self._context, await self.standing()
        progress = overview.progress_of(
            context.meter.snapshot(),
            standing,
            context.settling(),
            started_at=context.started_at,
            version=__version__,
            bandwidth=context.bandwidth.rate,
            calls_per_s=context.calls_per_s(),
        )
        return overview.document(standing, running=True, progress=progress)


def _read(state_dir: str) -> overview.StatusSummary:
    with reading(state_dir, Report) as report:
        return overview.NOTHING if report is None else overview.StatusSummary.of(report)


def _files(
    state_dir: str, state: str | None, offset: int, most: int
) -> tuple[list[dict[str, Any]], bool]:
    """A page of the files in a state (None: any), and whether more follow."""
    with reading(state_dir, Report) as report:
        files = () if report is None else report.files()
        fit = [file._asdict() for file in files if state in (None, file.state)]
    return fit[offset : offset + most], len(fit) > offset + most


class Queries:
    """The endpoints that change nothing."""

    def __init__(self, context: ControlContext, cache: StatusCache) -> None:
        self._context = context
        self._cache = cache
        self._streams = 0

    async def live(self, request: Request) -> Response:
        """Report that the event loop runs, and how long no byte has moved."""
        now = self._context.meter.snapshot()
        moving = {"running": len(now.running), "idle_s": round(now.idle_s, 1)}
        return JSONResponse({"live": True, "state_dir": self._context.state_dir, **moving})

    async def ready(self, request: Request) -> Response:
        """Report whether syncd can work, or why an operator must act."""
        reasons = self._context.unready()
        standing = await self._cache.standing()
        reasons += [
            f"{hold.kind}: {hold.reason}" for hold in standing.holds if hold.kind in NOT_READY
        ]
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status)

    async def status(self, request: Request) -> Response:
        return JSONResponse(await self._cache.document())

    async def files(self, request: Request) -> Response:
        """The files, page by page: ``state``, ``offset``, ``limit``."""
        state = request.query_params.get("state")
        offset = _number(request, "offset", 0, 10**9)
        limit = _number(request, "limit", 1000, FILES_MAX)
        page, more = await asyncio.to_thread(_files, self._context.state_dir, state, offset, limit)
        return JSONResponse({"files": page, "more": more})

    async def settling(self, request: Request) -> Response:
        """The file at ``path``, a path as ``/status`` shows it, if it still changes."""
        path = request.query_params.get("path")
        found = next((file for file in self._context.settling() if file.path == path), None)
        return JSONResponse({"settling": None if found is None else found._asdict()})

    async def metrics(self, request: Request) -> Response:
        from syncd.monitoring import metrics  # takes 1 MiB of memory

        context = self._context
        now_ms, ends_at_s = context.clock.now_ms(), context.credentials.ends_at_s
        facts = metrics.Facts(
            now_ms=now_ms,
            started_at=context.started_at,
            version=__version__,
            status=await self._cache.standing(),
            snapshot=context.meter.snapshot(),
            watch_mode=context.watch_mode(),
            token_s=None if ends_at_s is None else ends_at_s - now_ms / 1000,
            bandwidth=context.bandwidth.rate,
            calls_per_s=context.calls_per_s(),
            slots=context.transfer.width,
        )
        return Response(metrics.render(facts), media_type=metrics.CONTENT_TYPE)

    async def events(self, request: Request) -> Response:
        """Server-sent events: ``status``, once a second, until the client goes."""
        if self._streams >= STREAMS_MAX:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{STREAMS_MAX} event streams are open",
                "Close one of them, or poll /status.",
            )
        body = self._stream() if request.method == "GET" else iter(())
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)

    async def _stream(self) -> AsyncIterator[str]:
        self._streams += 1
        try:
            while True:
                document = json.dumps(await self._cache.document())
                yield f"event: status\ndata: {document}\n\n"
                await self._context.clock.sleep(EVENT_S)
        finally:
            self._streams -= 1


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text[:10]) <= most):
        raise bad(f"{name}: is not a number from 0 to {most}")
    return int(text)
