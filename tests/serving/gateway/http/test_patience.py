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
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serving.gateway.http import patience
from serving.gateway.http.patience import BoundedBodies, BoundedProtocol


async def echo(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    app = Starlette(routes=[Route("/", echo, methods=["POST"])], middleware=[Middleware(BoundedBodies)])
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
    monkeypatch.setattr(patience, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.3)


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
    monkeypatch.setattr(patience, "HEADER_SECONDS", 10.0)
    async with server() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"DELETE / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert head.startswith(b"HTTP/1.1 405")
            await reader.readexactly(len(b"Method Not Allowed"))
            writer.write(b"{}")
        writer.close()
