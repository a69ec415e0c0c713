"""Clients that take their time, against a gateway whose patience is short."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from zoetrope.serving.gateway.http.transport import timeouts
from zoetrope.serving.gateway.http.transport.timeouts import BoundedBodies, BoundedProtocol


async def long(_: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1_000):
            yield bytes(64 << 10)

    return StreamingResponse(pieces())


async def echo(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    routes = [Route("/", echo, methods=["POST"]), Route("/long", long)]
    app = Starlette(routes=routes, middleware=[Middleware(BoundedBodies)])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(app, http=BoundedProtocol, log_config=None, lifespan="off"))
        task = asyncio.create_task(running.serve([listener]))
        yield listener.getsockname()[1]
        running.should_exit = True
        await task


async def exchange(port: int, sent: bytes) -> bytes:
    """What comes back until the server closes the connection, or the first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(4_096), 10)
    finally:
        writer.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(timeouts, "PAUSE_SECONDS", 0.3)


@pytest.mark.parametrize("sent", [b"", b"P", b"POST / HTTP/1.1\r\nhost: x\r\n"])
async def test_headers_that_do_not_come_end_the_connection(sent: bytes) -> None:
    async with server() as port:
        assert await exchange(port, sent) == b""


async def test_bodies_that_do_not_come_are_refused() -> None:
    async with server() as port:
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345"
        assert (await exchange(port, head)).startswith(b"HTTP/1.1 408")
        whole = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12345"
        assert (await exchange(port, whole)).startswith(b"HTTP/1.1 200")


async def test_an_answer_that_nobody_takes_ends_with_its_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lost, connection_lost = asyncio.Event(), BoundedProtocol.connection_lost

    def ended(self: BoundedProtocol, exc: Exception | None) -> None:
        connection_lost(self, exc)
        lost.set()

    monkeypatch.setattr(timeouts, "TAKE_SECONDS", 0.3)
    monkeypatch.setattr(BoundedProtocol, "connection_lost", ended)
    async with server() as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.wait_for(lost.wait(), 10)
    assert "Traceback" not in caplog.text


async def test_a_second_request_on_a_connection_is_bounded_too() -> None:
    async with server() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1")
        assert (await asyncio.wait_for(reader.read(4_096), 10)).startswith(b"HTTP/1.1 200")
        writer.write(b"POST / HT")
        assert await asyncio.wait_for(reader.read(4_096), 10) == b""
        writer.close()


async def test_a_small_body_behind_its_answer_does_not_cost_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients send it in a piece of its own, and then their next request."""
    monkeypatch.setattr(timeouts, "HEADER_SECONDS", 10.0)
    async with server() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"DELETE / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert head.startswith(b"HTTP/1.1 405")
            await reader.readexactly(len(b"Method Not Allowed"))
            writer.write(b"{}")
        writer.close()
