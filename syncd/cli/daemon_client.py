"""Client of the HTTP API on a daemon's Unix socket."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

from syncd.config.locations import SOCKET, address_of, denied, runtime_sockets
from syncd.errors import AccessDenied, SyncdError
from syncd.formatting import printable
from syncd.store.lock import is_locked

ANSWER_S = 15.0
"""Timeout of a request: a little longer than the daemon itself waits for its disk."""


class NotAnswered(SyncdError):
    """A daemon runs, but its socket does not exist or does not answer."""

    exit_code = 75


class Refused(SyncdError):
    """The daemon refused the request."""

    exit_code = 1


def is_running(state_dir: str) -> bool:
    """
    Return whether a daemon owns *state_dir*.

    An account that may not read the directory checks the socket in the runtime directory, and gets
    ``AccessDenied`` if it may read neither.
    """
    try:
        return is_locked(state_dir)
    except AccessDenied:
        return socket_of(state_dir) is not None


def get(state_dir: str, path: str) -> dict[str, Any]:
    """
    Send ``GET path`` to the daemon of *state_dir* and return the answer.

    Raises ``AccessDenied``, ``NotAnswered`` or ``Refused``.
    """
    return _request(state_dir, "GET", path, "")


def post(state_dir: str, name: str, **members: object) -> dict[str, Any]:
    """Send ``POST /name`` with a JSON object. Raises what ``get`` raises."""
    return _request(state_dir, "POST", f"/{name}", json.dumps(members))


def events(state_dir: str) -> Iterator[dict[str, Any]]:
    """Yield the daemon's status document once a second until it stops. Raises what ``get`` raises."""
    with _connected(state_dir, "GET", "/events", "") as (status, answer):
        if status != 200:
            raise _refused(json.loads(answer.read()))
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def _request(state_dir: str, method: str, path: str, content: str) -> dict[str, Any]:
    with _connected(state_dir, method, path, content) as (status, answer):
        document: dict[str, Any] = json.loads(answer.read())
    if status >= 400 and "error" in document:
        raise _refused(document)
    return document


def _refused(document: Mapping[str, Any]) -> Refused:
    texts = [str(document.get(name, "")).rstrip(".") for name in ("error", "advice")]
    return Refused(printable(". ".join(filter(None, texts))))


def socket_of(state_dir: str) -> str | None:
    """
    Return the path of the socket of the daemon of *state_dir*, or None if it has none.

    The state directory contains the socket or a link to it. An account that may not read the
    directory uses the socket of the system service if that daemon owns *state_dir*, and otherwise
    gets ``AccessDenied``.
    """
    usual = os.path.join(state_dir, SOCKET)
    try:
        os.lstat(usual)
    except PermissionError:
        for path in runtime_sockets(os.environ):
            if _owned_by(path) == state_dir:
                return path
        raise denied(state_dir) from None
    except OSError:
        return None
    return os.path.realpath(usual)


def _owned_by(path: str) -> str | None:
    """Return the state directory of the daemon behind a socket, or None if it does not answer."""
    with suppress(OSError, ValueError, IndexError), _exchange(path, "GET", "/live", "") as answer:
        return str(json.loads(answer[1].read()).get("state_dir"))
    return None


@contextmanager
def _connected(
    state_dir: str, method: str, path: str, content: str
) -> Iterator[tuple[int, IO[bytes]]]:
    """Status and body of one answer. Raises what ``get`` raises."""
    place = socket_of(state_dir) or os.path.join(state_dir, SOCKET)
    try:
        with _exchange(place, method, path, content) as answer:
            yield answer
    except PermissionError:
        raise denied(place) from None
    except (OSError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotAnswered(
            f"syncd is running on {printable(state_dir)}, but its socket {printable(place)} does not "
            f"answer: {printable(reason)}. If syncd is just starting or stopping, try again; "
            "otherwise see its log."
        ) from None


@contextmanager
def _exchange(place: str, method: str, path: str, content: str) -> Iterator[tuple[int, IO[bytes]]]:
    """
    Send one request to the socket at *place* and yield status and body of the answer.

    The body of an HTTP/1.0 response is never chunked, so the import of an HTTP library, which takes
    longer than the request, is not needed.
    """
    body = content.encode()
    head = f"{method} {path} HTTP/1.0\r\nHost: syncd\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_S)
        with address_of(place) as address:
            sock.connect(address)
        sock.sendall(head.encode() + body)
        with sock.makefile("rb") as answer:
            status = int(answer.readline().split(b" ")[1])
            while answer.readline().strip():
                pass
            yield status, answer
