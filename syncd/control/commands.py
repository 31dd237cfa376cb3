"""The requests that change something; on the Unix socket only."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from syncd.control import actions
from syncd.control.actions import ActionResult
from syncd.control.context import ControlContext, Refusal, bad
from syncd.control.queries import StatusCache
from syncd.core.transfer.rates import parse
from syncd.types import Hint, HintKind, printable

BODY_MAX = 256 * 1024
PATHS_MAX = 1000
WRITE_S = 10.0  # how long a command waits for the store, whose disk may be full

_log = structlog.get_logger(__name__)


class Commands:
    """The endpoints that change something; on the Unix socket only."""

    def __init__(self, context: ControlContext, cache: StatusCache) -> None:
        self._context = context
        self._cache = cache

    async def pause(self, request: Request) -> Response:
        """Let running requests end and start nothing more."""
        await _members(request)
        await self._carry_out("pause", actions.pause)
        return JSONResponse({"paused": True})

    async def resume(self, request: Request) -> Response:
        """End the pause."""
        await _members(request)
        await self._carry_out("resume", actions.resume)
        return JSONResponse({"paused": False})

    async def retry(self, request: Request) -> Response:
        """Try files again: ``paths`` and ``states``."""
        body = await _members(request, "paths", "states")
        paths, states = _texts(body, "paths"), _texts(body, "states")
        if unknown := set(states) - set(actions.RETRIABLE):
            known = ", ".join(actions.RETRIABLE)
            raise bad(f"states: {printable(min(unknown))} is none of {known}")
        done = await self._carry_out("retry", actions.retry, paths=paths, states=states)
        return JSONResponse({"files": done.files, "examined": done.examined, "left": done.left})

    async def bump(self, request: Request) -> Response:
        """Move queued files to the front: ``paths``."""
        return await self._on_paths(request, "bump", actions.bump)

    async def cancel(self, request: Request) -> Response:
        """Cancel files until they change: ``paths``."""
        return await self._on_paths(request, "cancel", actions.cancel)

    async def scan(self, request: Request) -> Response:
        """Examine ``path`` (a file or folder; none: everything) now; ``accept``: see ``actions.accept``."""
        body = await _members(request, "path", "accept")
        path, accept = body.get("path") or ".", body.get("accept", False)
        if not _is_path(path):
            raise bad("path: is not a path")
        if not isinstance(accept, bool):
            raise bad("accept: is not true or false")
        context = self._context
        keys = await context.lanes.db(context.store.report.root_paths, path)
        if not keys:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                f"{printable(path)} is not in a watched directory",
                "Name a path below models_dir, or an absolute one.",
            )
        if accept:
            await self._carry_out("accept", actions.accept)
        for root_id, rel_path in keys:
            context.hint(Hint(root_id, rel_path, HintKind.RESCAN, folder=rel_path == ""))
        _log.info("control.command", order="scan", path=path)
        return JSONResponse({"looking_at": printable(path)}, HTTPStatus.ACCEPTED)

    async def limit(self, request: Request) -> Response:
        """Limit sending to ``rate`` until the next start or reload."""
        rate = (await _members(request, "rate")).get("rate")
        try:
            timetable = parse(rate if isinstance(rate, str) else "")
        except ValueError as error:
            raise bad(f"rate: {error}") from None
        self._context.bandwidth.follow(timetable)
        _log.info("control.command", order="limit", rate=rate)
        return JSONResponse({"bytes_per_second": self._context.bandwidth.rate})

    async def _on_paths(
        self, request: Request, name: str, action: Callable[..., ActionResult]
    ) -> Response:
        paths = _texts(await _members(request, "paths"), "paths")
        done = await self._carry_out(name, action, paths=paths)
        return JSONResponse({"files": done.files, "left": done.left})

    async def _carry_out(
        self, name: str, order: Callable[..., ActionResult], **what: Any
    ) -> ActionResult:
        """Change the store, then let the service act on the change."""
        context = self._context
        try:
            async with asyncio.timeout(WRITE_S):
                done: ActionResult = await context.lanes.db(
                    order, context.store, context.clock.now_ms(), **what
                )
        except TimeoutError:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"nothing could be written to {printable(context.state_dir)} for {WRITE_S:.0f} s",
                "Its disk may be full; see the log. Then try again.",
            ) from None
        self._cache.forget()
        await context.dispatcher.drop(done.ended)
        await context.dispatcher.reload_holds()
        for root_id, rel_path in done.look_at:
            context.hint(Hint(root_id, rel_path, HintKind.RESCAN))
        _log.info("control.command", order=name, files=len(done.files), left=len(done.left))
        return done


def _is_path(value: object) -> bool:
    """Return whether *value* is a string that can name a file."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


async def _members(request: Request, *names: str) -> dict[str, Any]:
    """Read the members of a JSON object with these optional *names*; an empty body has none."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > BODY_MAX:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body is larger than {BODY_MAX} bytes",
                "Name fewer files at a time, or a folder.",
            )
    try:
        body = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        raise bad("the body is not JSON") from None
    if not isinstance(body, dict):
        raise bad("the body is not a JSON object")
    if unknown := body.keys() - set(names):
        known = ", ".join(names) or "none"
        raise bad(f"{printable(min(unknown))}: no such member; known here: {known}")
    return body


def _texts(body: Mapping[str, Any], name: str) -> list[str]:
    values = body.get(name, [])
    if not isinstance(values, list) or not all(map(_is_path, values)) or len(values) > PATHS_MAX:
        raise bad(f"{name}: is not a list of at most {PATHS_MAX} strings")
    return list(values)
