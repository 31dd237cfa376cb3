"""The HTTP application: its routes and its error answers."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from syncd.control.commands import Commands
from syncd.control.context import ControlContext, Refusal
from syncd.control.queries import Queries, StatusCache
from syncd.errors import StateError
from syncd.types import printable

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def application(context: ControlContext) -> Starlette:
    """The application for the Unix socket."""
    cache = StatusCache(context)
    queries, commands = Queries(context, cache), Commands(context, cache)
    readers = (
        queries.live, queries.ready, queries.status, queries.files, queries.settling,
        queries.metrics, queries.events,
    )  # fmt: skip
    writers = (
        commands.pause, commands.resume, commands.retry, commands.bump, commands.cancel,
        commands.scan, commands.limit,
    )  # fmt: skip
    routes = [_route(endpoint, "GET") for endpoint in readers]
    routes += [_route(endpoint, "POST") for endpoint in writers]
    return Starlette(
        routes=routes,
        exception_handlers={
            Refusal: _on_refusal,
            HTTPException: _on_http,
            StateError: _on_state_error,
            Exception: _on_bug,
        },
    )


def _route(endpoint: Callable[[Request], Awaitable[Response]], method: str) -> Route:
    return Route(f"/{endpoint.__name__}", endpoint, methods=[method])


def _error(status: int, error: str, advice: str) -> JSONResponse:
    return JSONResponse({"error": error, "advice": advice}, status)


async def _on_refusal(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return _error(refusal.status, str(refusal), refusal.advice)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {printable(request.url.path)}: {error.detail}"
    return _error(error.status_code, what, "docs/control.md lists the requests.")


async def _on_state_error(request: Request, error: Exception) -> Response:
    return _error(HTTPStatus.SERVICE_UNAVAILABLE, str(error), "The log says more.")


async def _on_bug(request: Request, error: Exception) -> Response:
    what = f"internal error: {type(error).__name__}"
    return _error(HTTPStatus.INTERNAL_SERVER_ERROR, what, "The log has more; please report it.")


class ReadOnly:
    """The application on TCP: GET only, and only for Host headers that name this machine."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._app = app
        names = LOOPBACK_NAMES | {f"[{host}]" if ":" in host else host.lower()}
        self._hosts = {f"{name}:{port}" for name in names}
        self._hosts |= names if port == 80 else frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        hosts = [
            value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"
        ]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return _error(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the Host header does not name this address",
                f"Use one of: {', '.join(sorted(self._hosts))}",
            )
        if scope["method"] not in ("GET", "HEAD"):
            return _error(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "requests over TCP cannot change anything",
                "Use the syncd command, or the Unix socket.",
            )
        return None
