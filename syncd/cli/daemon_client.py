"""The daemon of a state directory, asked over its socket."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from syncd.config.locations import SOCKET, address_of, denied, runtime_sockets
from syncd.errors import SyncdError
from syncd.formatting import printable

ANSWER_S = 15.0
"""How long an answer may take: a little longer than the daemon itself waits for its disk."""


class NotAnswered(SyncdError):
    """A daemon is at work, and its socket could not be used; the text says why."""

    exit_code = 75


class Refused(SyncdError):
    """The daemon did not do it; the text says why, and what to do."""

    exit_code = 1


def ask(state_dir: str, path: str) -> dict[str, Any]:
    """
    What the daemon of *state_dir* answers to ``GET path``.

    Raises:
        AccessDenied: This account may not use the socket.
        NotAnswered: There is no socket, or it gave no answer.
        Refused: It answered that it does not do that.
    """
    return _answer(state_dir, "GET", path, "")


def order(state_dir: str, name: str, **what: object) -> dict[str, Any]:
    """Tell the daemon to do something (``POST /name``). Raises what ``ask`` raises."""
    return _answer(state_dir, "POST", f"/{name}", json.dumps(what))


def events(state_dir: str) -> Iterator[dict[str, Any]]:
    """
    What the daemon tells about itself, once a second, until it ends.

    Raises what ``ask`` raises.
    """
    with _asked(state_dir, "GET", "/events", "") as (status, answer):
        if status != 200:
            raise _refused(json.loads(answer.read()))
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def _answer(state_dir: str, method: str, path: str, content: str) -> dict[str, Any]:
    with _asked(state_dir, method, path, content) as (status, answer):
        document: dict[str, Any] = json.loads(answer.read())
    if status >= 400 and "error" in document:
        raise _refused(document)
    return document


def _refused(document: Mapping[str, Any]) -> Refused:
    texts = [str(document.get(name, "")).rstrip(".") for name in ("error", "advice")]
    return Refused(printable(". ".join(filter(None, texts))))


def socket_of(state_dir: str) -> str | None:
    """
    Where the daemon of *state_dir* listens; None if it offers no socket.

    The state directory holds the socket or a link to it. For an account that may not read it, the
    socket of the service is the one, if the daemon behind it owns *state_dir*.

    Raises:
        AccessDenied: This account may use neither.
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
    """The state directory of the daemon behind a socket; None if none answers this account."""
    try:
        with _exchange(path, "GET", "/live", "") as (_, answer):
            state_dir: str | None = json.loads(answer.read()).get("state_dir")
    except (OSError, ValueError, IndexError):
        return None
    return state_dir


@contextmanager
def _asked(state_dir: str, method: str, path: str, content: str) -> Iterator[tuple[int, IO[bytes]]]:
    """
    Status and body of one answer.

    Raises what ``ask`` raises.
    """
    place = socket_of(state_dir) or os.path.join(state_dir, SOCKET)
    try:
        with _exchange(place, method, path, content) as answer:
            yield answer
    except PermissionError:
        raise denied(place) from None
    except (OSError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotAnswered(
            f"A syncd is at work on {printable(state_dir)}, and its socket {printable(place)} does "
            f"not answer: {printable(reason)}. If it has just begun or is about to end, repeat this. If "
            "not, its log says more."
        ) from None


@contextmanager
def _exchange(place: str, method: str, path: str, content: str) -> Iterator[tuple[int, IO[bytes]]]:
    """
    One request to the socket at *place*; its status and body.

    HTTP/1.0 on purpose: the body then ends with the connection, and is never sent in chunks, so
    that no HTTP library has to be imported for it, which would take longer than the answer.
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
