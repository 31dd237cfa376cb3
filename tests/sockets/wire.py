"""A TCP proxy that breaks connections at a byte: what a network does, and no server has a say in."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")

CHUNK = 65536
IDLE_S = 0.001
"""A connection is idle when after an answer nothing came for so long."""


class Break(StrEnum):
    """What happens to a connection after a number of bytes."""

    REQUEST_RESET = "request_reset"
    REQUEST_END = "request_end"
    REQUEST_STALL = "request_stall"
    ANSWER_RESET = "answer_reset"
    ANSWER_END = "answer_end"
    ANSWER_STALL = "answer_stall"
    ANSWER_TRICKLES = "answer_trickles"  # every byte from there on comes alone
    ANSWER_TWICE = "answer_twice"  # up to 200 bytes come twice
    IDLE_END = "idle_end"  # closed in good manners after an answer

    @property
    def on_request(self) -> bool:
        """Are the client's bytes counted, or the server's?"""
        return self.value.startswith("request")


@dataclass(frozen=True, slots=True)
class Accident:
    """*what* happens to the connection that is the *nth* from 0, *after* that many bytes."""

    what: Break
    nth: int
    after: int


@dataclass(slots=True)
class _Link:
    """One connection and its accident."""

    accident: Accident | None
    passed: int = 0
    reset: bool = False


class Wire:
    """
    One listening port in front of another one on this machine.

    ``met`` counts the connections on which an accident happened.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]
        self.upstream = 0
        self.accidents: list[Accident] = []
        self.met = 0
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._on_loop(asyncio.start_server(self._serve, sock=self._sock))

    def point_at(self, port: int, accidents: list[Accident]) -> None:
        """Forget all that was and lead to *port* from now on."""
        self.hang_up()
        self.upstream, self.accidents = port, accidents
        self.met = self._count = 0

    def hang_up(self) -> None:
        """End all connections and wait until they are gone."""
        self._on_loop(self._end())

    def close(self) -> None:
        """Accept no more connections, and end those that there are."""
        self._on_loop(self._close())

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        await self._end()

    async def _end(self) -> None:
        await asyncio.sleep(0)  # a connection that was just accepted gets its task first
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._tasks.add(task)
        number, self._count = self._count, self._count + 1
        link = _Link(next((each for each in self.accidents if each.nth == number), None))
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._join(link, reader, writer)
        finally:
            _close(writer, reset=link.reset)
            self._tasks.discard(task)

    async def _join(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        ways = [
            asyncio.ensure_future(self._carry(link, reader, up_writer, asks=True)),
            asyncio.ensure_future(self._carry(link, up_reader, writer, asks=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            _close(up_writer, reset=link.reset)  # before the wait, which may be cancelled
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        asks: bool,
    ) -> None:
        """One direction, up to its accident; returning ends the connection."""
        accident = link.accident
        if accident is not None and accident.what.on_request is not asks:
            accident = None
        while data := await self._read(reader, accident, link):
            if accident is None or link.passed + len(data) <= accident.after:
                link.passed += len(data) if accident is not None else 0
                writer.write(data)
                await writer.drain()
                continue
            whole = accident.after - link.passed
            link.passed = accident.after
            writer.write(data[:whole])
            await writer.drain()
            if not await self._happen(link, accident, writer, data[whole:]):
                return
            accident = None

    async def _read(
        self, reader: asyncio.StreamReader, accident: Accident | None, link: _Link
    ) -> bytes:
        if accident is None or accident.what is not Break.IDLE_END or link.passed == 0:
            return await reader.read(CHUNK)
        try:
            return await asyncio.wait_for(reader.read(CHUNK), IDLE_S)
        except TimeoutError:
            self.met += 1
            return b""

    async def _happen(
        self, link: _Link, accident: Accident, writer: asyncio.StreamWriter, rest: bytes
    ) -> bool:
        """Let it happen; does the connection go on afterwards?"""
        self.met += 1
        match accident.what:
            case Break.REQUEST_RESET | Break.ANSWER_RESET:
                link.reset = True
            case Break.REQUEST_STALL | Break.ANSWER_STALL:
                await asyncio.Event().wait()
            case Break.ANSWER_TRICKLES:
                for at in range(len(rest)):
                    writer.write(rest[at : at + 1])
                    await asyncio.sleep(0)
                return True
            case Break.ANSWER_TWICE:
                writer.write(rest[:200] + rest)
                return True
        return False


def _close(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """In good manners, or with RST."""
    if reset:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


@contextmanager
def wires(count: int) -> Iterator[list[Wire]]:
    """Proxies in a thread of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="wires", daemon=True)
    thread.start()
    made: list[Wire] = []
    try:
        made += [Wire(loop) for _ in range(count)]
        yield made
    finally:
        for wire in made:
            wire.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
