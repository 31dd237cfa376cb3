"""
The sockets and their access checks.

uvicorn's main loop does not run, as it would wake up ten times a second.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from syncd.config.locations import SOCKET, address_of, socket_path
from syncd.control.app import ReadOnly, application
from syncd.control.context import ControlContext

KEEP_ALIVE_S = 30
GOODBYE_S = 5  # for a refused peer to send its request and read the answer
BACKLOG = 64
SO_PEERGROUPS = 59  # socket(7); not in Python's socket module

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def serve(context: ControlContext, listen: tuple[str, int] | None) -> AsyncIterator[None]:
    """
    Answer while the block runs, on the Unix socket and, read-only, on the TCP port *listen*.

    A socket that cannot be opened is logged; the daemon uploads without it.
    """
    app = application(context)
    async with AsyncExitStack() as stack:
        try:
            path, sock = listen_on_socket(context.state_dir, os.environ)
            names = {path, os.path.join(context.state_dir, SOCKET)}
            stack.callback(_remove, {name: os.lstat(name).st_ino for name in names})
            await _served(stack, app, sock, _checked(path))
            _log.info("control.listening", socket=path)
        except OSError as error:
            _log.error("control.unavailable", reason=f"its socket: {error.strerror or error}")
        if listen is not None:
            try:
                sock = listen_on_port(*listen)
                await _served(stack, ReadOnly(app, *listen), sock, H11Protocol)
                _log.info("control.listening", host=listen[0], port=listen[1])
            except OSError as error:
                reason = f"http.listen {listen[0]}:{listen[1]}: {error.strerror or error}"
                _log.error("control.unavailable", reason=reason)
        yield


def listen_on_socket(state_dir: str, environ: Mapping[str, str]) -> tuple[str, socket.socket]:
    """
    Return the path and a bound Unix socket; *state_dir* contains the socket or a link to it.

    The caller owns the lock of the state directory, so an existing socket there belongs to a dead
    daemon. Elsewhere, a socket of another daemon that answers is not replaced.
    """
    usual = os.path.join(state_dir, SOCKET)
    path = socket_path(state_dir, environ)
    if path != usual and _answers(path):
        path = usual
    try:
        sock = _bound(path)
    except OSError:
        if path == usual:
            raise
        path, sock = usual, _bound(usual)
    if path != usual:
        Path(usual).unlink(missing_ok=True)
        Path(usual).symlink_to(path)
    return path, sock


def _bound(path: str) -> socket.socket:
    """Bind without listening, so that no peer connects before the mode is set."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address_of(path) as address:
            sock.bind(address)
        os.chmod(path, 0o660)
    except BaseException:
        sock.close()
        raise
    return sock


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            with address_of(path) as address:
                probe.connect(address)
        except OSError:
            return False
    return True


def _remove(inodes: Mapping[str, int]) -> None:
    """Remove our sockets, but not those that another daemon has bound to the same names since."""
    for name, inode in inodes.items():
        with suppress(OSError):
            if os.lstat(name).st_ino == inode:
                Path(name).unlink()


def listen_on_port(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _checked(path: str) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol for peers that may use the socket at *path*; others get 403."""
    group = os.stat(path).st_gid
    answer = (
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        b'{"error": "this socket is for the account that runs syncd, its group and root",'
        b' "advice": "Use that account, or ask to be added to the group."}'
    )

    class Checked(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            if may_ask(transport.get_extra_info("socket"), group):
                super().connection_made(transport)
                return
            transport.write(answer)
            # Closing a socket with unread data resets the connection, and the answer is lost.
            transport.write_eof()
            transport.set_protocol(asyncio.Protocol())
            self.loop.call_later(GOODBYE_S, transport.close)

    return Checked


def may_ask(peer: Any, group: int) -> bool:
    """
    Return whether the peer runs as us, as root, or in *group* (SO_PEERCRED in unix(7)).

    The mode of the socket demands the same, but others may change it.
    """
    packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, gid = struct.unpack("3i", packed)
    return uid in (os.geteuid(), 0) or group in (gid, *_groups_of(peer))


def _groups_of(peer: Any) -> Sequence[int]:
    try:
        packed = peer.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    except OSError:  # an older kernel, or more groups than Python has room for
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)


async def _served(
    stack: AsyncExitStack, app: ASGIApp, sock: socket.socket, protocol: type[asyncio.Protocol]
) -> None:
    """Serve *app* on *sock* until *stack* ends."""
    stack.callback(sock.close)
    config = uvicorn.Config(
        _interruptible(app),
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[sock])
    stack.push_async_callback(_end, server)


def _interruptible(app: ASGIApp) -> ASGIApp:
    """Let requests be cancelled at the end; uvicorn would log each as an error."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return call


async def _end(server: uvicorn.Server) -> None:
    for listener in server.servers:
        listener.close()
    for connection in tuple(server.server_state.connections):
        connection.transport.abort()
    # Let the requests see that their peer is gone before they are cancelled, which is not an error.
    await asyncio.sleep(0)
    tasks = tuple(server.server_state.tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
