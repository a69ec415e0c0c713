"""Bound slow clients: requests whose headers or bodies trickle in do not hold connections."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import h11
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from zoetrope.serving.gateway.http.transport.connections import Connections

SMALL_BYTES = 64 << 10  # of a body that needs no turn, and is not cut off once it was answered
HEADER_SECONDS = 10.0  # from the connection, or the first byte of a later request, to the end of the headers
PAUSE_SECONDS = 20.0  # between two pieces of a body
GRACE_SECONDS = 30.0  # for a body, and in addition the time that its bytes take at the least rate
LEAST_BYTES_PER_SECOND = 20_000
TAKE_SECONDS = 60.0  # that a client may take to read each piece of an answer
LINGER_SECONDS = 2.0  # for which a client may keep sending a request that was answered
REST_BYTES = 32 << 20  # of such a request that are read and dropped; fewer without a good key
STRANGERS_REST_BYTES = 1 << 20
MAX_REFUSED = 20  # requests without a good key until their connection is closed
MAX_LENGTH_DIGITS = 20  # h11 refuses longer ones, also of zeros
TWO_LENGTHS = "a body has either content-length or transfer-encoding"
CONNECTION = "connection"  # in the state of a request


class BoundedProtocol(H11Protocol):
    """Closes connections whose headers are not complete in time, and those that make room for others. uvicorn itself
    bounds idle connections only, and answers 503 to everybody, probes included, where there are too many."""

    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, connections: Connections | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = Connections() if connections is None else connections
        self._refused = 0
        self._ending = self._lingering = False
        self._rest = 0
        self.app_state = {**self.app_state, CONNECTION: self}

    @property
    def idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        self.transport.abort()

    def authenticated(self, name: str) -> None:
        """Count the connection as that caller's."""
        self._connections.authenticated(self, name)

    def refused(self) -> bool:
        """Count a request that was refused for want of a key; tell whether there were too many."""
        self._refused += 1
        return self._refused >= MAX_REFUSED

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._connections.add(self, self.client[0] if self.client else "")
        self._arm()

    def data_received(self, data: bytes) -> None:
        if self._ending:  # nobody wants the rest of this body
            self._rest -= len(data)
            if self._rest < 0:
                self.transport.pause_reading()
            return
        self._connections.heard(self)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self._timer is None or (self._lingering and self.conn.their_state is not h11.SEND_BODY):
            self._disarm()
            self._arm()

    def on_response_complete(self) -> None:
        self._disarm()
        if self.conn.their_state is not h11.SEND_BODY or self.transport.is_closing():
            super().on_response_complete()
        elif 0 < length_of(Headers(raw=self.headers)) <= SMALL_BYTES:  # on its way, and the client's next request too
            super().on_response_complete()
            self._lingering = True
            self._timer = self.loop.call_later(LINGER_SECONDS, self._give_up)
        else:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._connections.remove(self)
        super().connection_lost(exc)

    def _end(self) -> None:
        """Close after an answer that came before the request was complete: its client may still be sending, and would
        not read an answer whose connection is gone at once."""
        self._ending = True
        self._rest = STRANGERS_REST_BYTES if self._refused else REST_BYTES
        self.server_state.total_requests += 1
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _arm(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _disarm(self) -> None:
        self._lingering = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class BoundedBodies:
    """Middleware: 408 for a body that pauses too long or comes too slowly in all, 400 for one of two lengths; an answer
    that nobody takes ends with its connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy may have gone by the other one, and taken what is left for part of this body (RFC 9112, 6.3).
            await JSONResponse({"error": TWO_LENGTHS}, 400, {"connection": "close"})(scope, receive, send)
            return
        started, size, complete = 0.0, 0, False

        async def bounded() -> Message:
            nonlocal started, size, complete
            if complete:  # what comes now is the end of the connection, however late
                return await receive()
            started = started or time.monotonic()  # no sooner: until then it waited for its turn
            left = started + GRACE_SECONDS + size / LEAST_BYTES_PER_SECOND - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, min(PAUSE_SECONDS, left)))
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time") from None
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                complete = not message.get("more_body", False)
            return message

        async def taken(message: Message) -> None:
            try:
                async with asyncio.timeout(TAKE_SECONDS):
                    await send(message)
            except TimeoutError:
                if (connection := scope.get("state", {}).get(CONNECTION)) is not None:
                    connection.drop()  # to close it would wait for the client to take the rest
                raise ClientDisconnect from None

        with suppress(ClientDisconnect):  # nobody is there to answer
            await self._app(scope, bounded, taken)


def length_of(headers: Headers) -> int:
    """Return the length that a body is announced with; 0 if it is not."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_LENGTH_DIGITS else 0
