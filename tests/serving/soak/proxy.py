"""A port in front of a server, which can shut and which can lose the answer to a COMMIT."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"  # PostgreSQL's CommandComplete
READ_BYTES = 1 << 16


class Proxy:
    """Forwards connections on loopback to a server, in a thread of its own."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        """``connect`` opens a connection to the server."""
        self._connect = connect
        self._open = True
        self._losing = 0
        self.lost = 0  # answers to COMMITs so far
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def lose_answers(self, count: int) -> None:
        """Break the connection of each of the next COMMITs once the server has done it and before anybody hears."""
        self._losing = count

    @contextmanager
    def away(self) -> Iterator[None]:
        """Break all connections and take no new ones, for the length of a block."""
        self._open = False
        self._run(self._break_all())
        try:
            yield
        finally:
            self._open = True

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end(self) -> None:
        self._server.close()
        await self._break_all()
        if connections := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(connections, timeout=5)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._forward, "127.0.0.1", 0)

    async def _break_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        try:
            upstream, up = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up}
        try:
            await asyncio.gather(self._pump(reader, up), self._pump(upstream, writer, answers=True))
        finally:
            self._writers -= {writer, up}

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool = False) -> None:
        tail = b""
        with suppress(OSError):
            while data := await source.read(READ_BYTES):
                if answers and self._losing and COMMITTED in tail + data:
                    self._losing -= 1
                    self.lost += 1
                    target.transport.abort()
                    return
                tail = data[-len(COMMITTED) :]
                target.write(data)
                await target.drain()
        target.close()
