"""Bounds on clients that take their time: requests whose headers or bodies trickle in do not hold connections."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # from the connection, or the first byte of a later request, to the end of the headers
PAUSE_SECONDS = 20.0  # between two pieces of a body
GRACE_SECONDS = 30.0  # for a body, and in addition the time that its bytes take at the least rate
LEAST_BYTES_PER_SECOND = 20_000


class BoundedProtocol(H11Protocol):
    """Closes connections whose headers are not complete in time. uvicorn itself bounds idle connections only."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self._timer is None:
            self._arm()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class BoundedBodies:
    """Middleware: 408 for a body that pauses too long or comes too slowly on the whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, size, complete = time.monotonic(), 0, False

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:  # what comes now is the end of the connection, however late
                return await receive()
            left = started + GRACE_SECONDS + size / LEAST_BYTES_PER_SECOND - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, min(PAUSE_SECONDS, left)))
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time") from None
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                complete = not message.get("more_body", False)
            return message

        await self._app(scope, bounded, send)
