"""The daemon of a state directory, asked over its socket."""

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from syncd.errors import StateError, SyncdError
from syncd.model import printable
from syncd.places import SOCKET, address_of

ANSWER_S = 15.0
"""How long an answer may take: a little longer than the daemon itself waits for its disk."""


class NotAnswered(SyncdError):
    """A daemon is at work, and its socket could not be used; the text says why."""

    exit_code = 75


class Refused(SyncdError):
    """The daemon did not do it; the text says why, and what to do."""

    exit_code = 1


class _Connection(http.client.HTTPConnection):
    """HTTP over the Unix socket at *path*."""

    def __init__(self, path: str) -> None:
        super().__init__("syncd", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with address_of(self._path) as address:
            self.sock.connect(address)


def ask(
    state_dir: str, path: str, body: Mapping[str, object] | None = None, *, method: str = "GET"
) -> dict[str, Any]:
    """
    One request to the daemon of *state_dir*; its answer.

    Raises:
        NotAnswered: There is no socket, or it gave no answer.
        Refused: It answered that it does not do that.
    """
    content = None if body is None else json.dumps(body)
    with _asked(state_dir, method, path, content) as response:
        answer = _json(response.read())
    if response.status >= 400 and "error" in answer:
        raise Refused(f"{printable(str(answer['error']))}. {answer.get('what_to_do', '')}".rstrip())
    return answer


def order(state_dir: str, name: str, **what: object) -> dict[str, Any]:
    """Tell the daemon to do something (``POST /name``). Raises what ``ask`` raises."""
    return ask(state_dir, f"/{name}", what, method="POST")


def events(state_dir: str) -> Iterator[dict[str, Any]]:
    """
    What the daemon tells about itself, once a second, until it ends.

    Raises:
        NotAnswered: It does not answer, or not any more.
    """
    with _asked(state_dir, "GET", "/events", None) as response:
        while line := response.readline():
            if line.startswith(b"data: "):
                yield _json(line.removeprefix(b"data: "))


@contextmanager
def _asked(
    state_dir: str, method: str, path: str, content: str | None
) -> Iterator[http.client.HTTPResponse]:
    place = os.path.realpath(os.path.join(state_dir, SOCKET))
    connection = _Connection(place)
    try:
        connection.request(method, path, content)
        yield connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotAnswered(
            f"A syncd is at work on {printable(state_dir)}, and its socket {printable(place)} does "
            f"not answer: {why}. If it just began, repeat this; if not, its log says more, "
            "and this has to run under its account (or as root)."
        ) from None
    finally:
        connection.close()


def _json(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise StateError("The daemon's socket gave an answer that is none of syncd's.")
    return answer
