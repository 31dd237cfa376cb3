"""What stands before both ports: names the call, injects faults, writes the history."""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from syncd.sandbox.answers import Answer
from syncd.sandbox.faults import Fault, Faults
from syncd.sandbox.history import Draft, Entry, History
from syncd.types import Call

JSON_LIMIT = 4 * 1024 * 1024
"""Bytes of an API request's body that are read; 10,000 parts with their etags fit."""

NOTED = {
    "model_path": str, "storage_key": str, "upload_id": str, "part_number": int, "file_size": int,
    "file_hash": str,
}  # fmt: skip
"""Members of a JSON body that go into the history, with the type they must have to be noted."""


class _Connection(NamedTuple):
    transport: asyncio.Transport
    gone: asyncio.Event


class Connections:
    """The open connections, so that a fault can break the one it is meant for."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], _Connection] = {}

    def protocol(self) -> type[asyncio.Protocol]:
        """uvicorn's HTTP protocol, made to report here."""
        opened = self._open

        class Reported(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                self.peer = transport.get_extra_info("peername")[:2]
                opened[self.peer] = _Connection(transport, asyncio.Event())
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                opened.pop(self.peer).gone.set()

        return Reported

    async def drop(self, scope: Scope, *, reset: bool) -> None:
        """Close the connection of *scope*, with RST or in good manners, and wait until it is."""
        connection = self._open.get(tuple(scope["client"]))
        if connection is not None:
            _close(connection.transport, reset=reset)
            await connection.gone.wait()

    def drop_all(self) -> None:
        """Break every connection."""
        for connection in tuple(self._open.values()):
            connection.transport.abort()


def _close(transport: asyncio.Transport, *, reset: bool) -> None:
    if not reset:
        transport.close()
        return
    linger_none = struct.pack("ii", 1, 0)  # close() then sends RST
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
    transport.abort()


@dataclass(slots=True)
class Front:
    """
    ASGI middleware around one port's application.

    Args:
        routes: Of the application; a route's name is its call.
        model_path_of: The model_path of a storage_key, where it was presigned here.
        crashes: Takes exceptions that are bugs of the sandbox.
    """

    app: ASGIApp
    routes: Sequence[Route]
    faults: Faults
    history: History
    connections: Connections
    now: Callable[[], float]
    model_path_of: Callable[[str | None], str | None]
    crashes: list[Exception]
    _late: set[asyncio.Task[None]] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call, facts = self._identify(scope)
        draft = self._draft(scope, call, facts)
        scope.setdefault("state", {})["draft"] = draft
        if call.startswith("_"):  # the inspection routes are no part of the cloud
            await self.app(scope, receive, send)
            return
        try:
            receive = await self._read_json(scope, receive, draft)
        except ClientDisconnect:
            self._record(draft, None)
            return
        await self._answer(scope, receive, send, draft)

    def _identify(self, scope: Scope) -> tuple[str, dict[str, Any]]:
        for route in self.routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                return route.name, child["path_params"]
        return "unknown", {}

    def _draft(self, scope: Scope, call: str, facts: dict[str, Any]) -> Draft:
        key = facts.get("key")
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        number = query.get("partNumber", "")
        entry = Entry(
            seq=self.history.next_seq(),
            at_ms=int(self.now() * 1000),
            call=str(Call.PUT_PART if call == Call.PUT_BODY and "uploadId" in query else call),
            method=scope["method"],
            path=scope["path"],
            header_names=tuple(sorted({name.decode("latin-1") for name, _ in scope["headers"]})),
            storage_key=key,
            upload_id=query.get("uploadId"),
            part=int(number) if number.isdecimal() else None,
            model_path=self.model_path_of(key),
            record_id=facts.get("model_id"),
        )
        return Draft(entry)

    async def _read_json(self, scope: Scope, receive: Receive, draft: Draft) -> Receive:
        """Note what the body says, then let it be received again; the store's bodies stay alone."""
        if draft.entry.storage_key is not None or scope["method"] == "GET":
            return receive
        body = b""
        while len(body) <= JSON_LIMIT:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self._note(draft, body)
        return _replay(body, receive)

    def _note(self, draft: Draft, body: bytes) -> None:
        try:
            document = json.loads(body)
        except ValueError:
            return
        if not isinstance(document, dict):
            return
        fields = {k: document[k] for k, kind in NOTED.items() if type(document.get(k)) is kind}
        draft.note(
            model_path=fields.get("model_path") or self.model_path_of(fields.get("storage_key")),
            storage_key=fields.get("storage_key"),
            upload_id=fields.get("upload_id"),
            part=fields.get("part_number"),
            size=fields.get("file_size"),
            file_hash=fields.get("file_hash"),
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Send, draft: Draft) -> None:
        rule = self.faults.pick(draft.entry)
        if rule is None:
            await self._say(scope, send, draft, await self._perform(scope, receive, draft))
            return
        draft.note(fault=rule.fault.value)
        await asyncio.sleep(rule.delay_s)
        if rule.fault is Fault.CUT:
            receive = _cut(receive, rule.after_bytes)
        if rule.late_s:
            self._perform_later(scope, receive, draft, rule.late_s)
        answer = await self._perform(scope, receive, draft) if rule.performs else Answer(503)
        if answer is None or rule.fault in (Fault.RESET, Fault.LOST_ANSWER):
            self._record(draft, None)
            await self.connections.drop(scope, reset=rule.fault is not Fault.LOST_ANSWER)
            return
        cut_after = rule.after_bytes if rule.fault is Fault.TRUNCATED else None
        await self._say(scope, send, draft, rule.spoil(answer), cut_after)

    async def _perform(self, scope: Scope, receive: Receive, draft: Draft) -> Answer | None:
        """The application's answer, held back; None when the client went away before one."""
        messages: list[Message] = []

        async def hold(message: Message) -> None:
            messages.append(message)

        try:
            await self.app(scope, receive, hold)
        except ClientDisconnect:
            return None
        except Exception as error:
            self.crashes.append(error)
            draft.note(status=500, error=repr(error))
            return Answer(500)
        answer = _collected(messages)
        draft.note(status=answer.status)
        return answer

    def _perform_later(self, scope: Scope, receive: Receive, draft: Draft, late_s: float) -> None:
        """Carry the call out *late_s* from now, whether or not its client still exists."""

        async def late() -> None:
            await asyncio.sleep(late_s)
            await self._perform(scope, receive, draft)
            self.history.add(draft.entry)

        draft.late = True
        task = asyncio.create_task(late())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _record(self, draft: Draft, answered: int | None, *, lost: bool = False) -> None:
        draft.note(answered=answered, lost=lost or answered is None)
        if not draft.late:
            self.history.add(draft.entry)

    async def _say(
        self,
        scope: Scope,
        send: Send,
        draft: Draft,
        answer: Answer | None,
        cut_after: int | None = None,
    ) -> None:
        """Record first, so that a client with the answer finds the call in the history."""
        if answer is not None:
            draft.note(retry_after=answer.headers.get("Retry-After"))
        self._record(draft, answer.status if answer else None, lost=cut_after is not None)
        if answer is None:
            return
        await send(_start(answer, self.now()))
        if cut_after is None:
            await send({"type": "http.response.body", "body": answer.body})
            return
        part = answer.body[:cut_after]
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await self.connections.drop(scope, reset=False)


def _cut(receive: Receive, after_bytes: int) -> Receive:
    """Return *receive* until that many bytes of the body arrived, then a client that disconnects."""
    left = after_bytes

    async def cut() -> Message:
        nonlocal left
        if left <= 0:
            return {"type": "http.disconnect"}
        message = await receive()
        left -= len(message.get("body", b""))
        return message if left > 0 else {"type": "http.disconnect"}

    return cut


def _replay(body: bytes, receive: Receive) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return cast(Message, messages.pop()) if messages else await receive()

    return again


def _collected(messages: list[Message]) -> Answer:
    start, *rest = messages
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    headers.pop("content-length", None)
    return Answer(start["status"], headers, b"".join(m.get("body", b"") for m in rest))


def _start(answer: Answer, now_s: float) -> Message:
    headers = {**answer.headers, "Date": formatdate(now_s, usegmt=True)}
    if answer.status != 204:
        headers["Content-Length"] = str(len(answer.body))
    raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
    return {"type": "http.response.start", "status": answer.status, "headers": raw}
