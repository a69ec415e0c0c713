"""In front of every gRPC method: who calls, before the request is read, and statuses for what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc.code_pb2 import Code

from zoetrope.cluster.telemetry.traces import MAX_TRACEPARENT_CHARS
from zoetrope.serving.gateway.auth.authenticator import Unauthenticated
from zoetrope.serving.gateway.auth.callers import bearer
from zoetrope.serving.gateway.core.call_records import recorded_call
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.errors.api_error import ApiError, stopping
from zoetrope.serving.gateway.grpc.request_reader import MethodKind, RequestReader, is_quick, read_open
from zoetrope.serving.gateway.grpc.sockets import Sockets
from zoetrope.serving.gateway.grpc.status import abort
from zoetrope.serving.gateway.limits.anonymous import AnonymousConnections

TAKE_SECONDS = 60.0  # that a client may take for each message of a stream
# Services that anybody may call: probes and tools have no keys.
OPEN = ("/grpc.health.v1.", "/grpc.reflection.")
# Of their calls, those of one address and of all; and those whose message is not there yet.
MAX_OPEN_CALLS, MAX_ALL_OPEN_CALLS = 32, 256
MAX_OPEN_READS, MAX_ALL_OPEN_READS = 8, 16


@dataclass
class Gate:
    """State that all services of one gateway share."""

    core: Core
    sockets: Sockets
    reading: RequestReader = field(init=False)
    open_calls: AnonymousConnections = field(
        default_factory=lambda: AnonymousConnections(MAX_OPEN_CALLS, MAX_ALL_OPEN_CALLS)
    )
    open_reads: AnonymousConnections = field(
        default_factory=lambda: AnonymousConnections(MAX_OPEN_READS, MAX_ALL_OPEN_READS)
    )
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    _calls: int = 0

    def __post_init__(self) -> None:
        self.reading = RequestReader(self.core.pace)
        self.idle.set()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call; ``idle`` is set while there is none.

        Raises:
            ApiError: the gateway is stopping.
        """
        if self.core.liveness.stopping:
            raise stopping()
        self._calls += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self.idle.set()


class Guarded(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A service whose callers are authenticated and whose errors are answered; health and reflection do so themselves.

    Every method is given to grpc as one that takes a stream, for of those grpc reads nothing by itself. Each is wrapped
    once: an interceptor of grpc's would be asked anew, in coroutines of its own, at every call.
    """

    def __init__(self, service: Any, gate: Gate) -> None:
        """
        Args:
            service: a grpc.GenericRpcHandler.
        """
        self._service = service
        self._gate = gate
        self._methods: dict[str, Any] = {}

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a method; None if this service has no such method."""
        name = handler_call_details.method
        handler = self._methods.get(name)
        if handler is None:
            handler = self._service.service(handler_call_details)
            if handler is not None:
                handler = self._methods[name] = self._guard(name, handler)
        return handler

    def _guard(self, path: str, handler: Any) -> Any:
        parse = handler.request_deserializer
        kind = MethodKind(path, parse, parse.__self__.DESCRIPTOR)
        method = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        if path.startswith(OPEN):
            guarded = self._answer_open if not handler.response_streaming else self._stream_open
        elif handler.response_streaming:
            guarded = self._stream
        else:
            guarded = self._answer
        wrapped = guarded(method, kind, handler.request_streaming)
        serialize = handler.response_serializer
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(wrapped, None, serialize)
        return grpc.stream_unary_rpc_method_handler(wrapped, None, serialize)

    def _answer(self, method: Any, kind: MethodKind, streams: bool) -> Any:
        read = self._gate.reading.upload if streams else self._gate.reading.request

        async def answer(context: Any) -> Any:
            try:
                with self._gate.call():
                    name = await self._authenticate(context)
                    async with read(context, name, kind) as request:
                        if not is_quick(request):
                            return await method(request, context)
                        async with self._gate.core.answers.turn(name):
                            return await method(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, error)

        async def guarded(_: Any, context: Any) -> Any:
            with _recorded(kind, context):
                return await answer(context)

        return guarded

    def _stream(self, method: Any, kind: MethodKind, streams: bool) -> Any:
        assert not streams, f"{kind.path} is of a kind that nobody guards"

        async def guarded(_: Any, context: Any) -> AsyncIterator[Any]:
            with _recorded(kind, context, traced=False):  # a generator is no place for a current span
                async for message in answer(context):
                    yield message

        async def answer(context: Any) -> AsyncIterator[Any]:
            try:
                with self._gate.call():
                    async with self._gate.reading.request(context, await self._authenticate(context), kind) as request:
                        async for message in method(request, context):
                            with _taken_in_time():
                                yield message
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, error)

        return guarded

    async def _authenticate(self, context: Any) -> str:
        """Authenticate a call; return whose slots it takes: its key's, or its address's if no keys are asked for."""
        metadata = {key.lower(): value for key, value in context.invocation_metadata() or ()}
        value = metadata.get("authorization")
        try:
            who = await self._gate.core.authenticate(
                bearer(value if isinstance(value, str) else None), address_of(context)
            )
        except Unauthenticated:
            self._gate.sockets.refused(context.peer())
            raise
        self._gate.sockets.authenticated(context.peer(), who.name)
        return who.name

    # Health and reflection, whose methods are coroutines or generators of grpc's own.

    def _answer_open(self, method: Any, kind: MethodKind, streams: bool) -> Any:
        async def answer(_: Any, context: Any) -> Any:
            try:
                async with self._place(context):
                    return await method(await self._first(context, kind), context)
            except grpc.aio.AbortError:
                raise
            except NotImplementedError:  # grpc's health service lacks a method of its own protocol
                await abort(context, ApiError("UNIMPLEMENTED", "NOT_OFFERED", "this method is not offered"))
            except ApiError as error:
                await abort(context, error)

        return answer

    def _stream_open(self, method: Any, kind: MethodKind, streams: bool) -> Any:
        async def stream(_: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async with self._place(context):
                    given = self._each(context, kind) if streams else await self._first(context, kind)
                    async for message in method(given, context):
                        yield message
            except grpc.aio.AbortError:
                raise
            except ApiError as error:
                await abort(context, error)

        return stream

    @asynccontextmanager
    async def _place(self, context: Any) -> AsyncIterator[None]:
        address = address_of(context)
        await self._gate.core.pace.wait(f"open {address}", known=False)
        with self._gate.open_calls.place(address):
            yield

    async def _first(self, context: Any, kind: MethodKind) -> Any:
        message = await self._read_open(context, kind)
        if message is None:
            raise ApiError("INVALID_ARGUMENT", "NO_MESSAGE", "the call ended without a message")
        return message

    async def _each(self, context: Any, kind: MethodKind) -> AsyncIterator[Any]:
        while (message := await self._read_open(context, kind)) is not None:
            yield message

    async def _read_open(self, context: Any, kind: MethodKind) -> Any:
        with self._gate.open_reads.place(address_of(context)):
            return await read_open(context, kind)


class Guarding:
    """Stand in for a server while services are added to it, and guard them."""

    def __init__(self, server: Any, gate: Gate) -> None:
        self._server = server
        self._gate = gate

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        self._server.add_generic_rpc_handlers([Guarded(handler, self._gate) for handler in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Ignore the methods that newer generated code registers here as well: grpc.aio does not use them."""


@contextmanager
def _recorded(kind: MethodKind, context: Any, *, traced: bool = True) -> Iterator[None]:
    """Count a call and trace it, with the status that its client gets."""
    service, _, method = kind.path.rpartition("/")
    name = f"{service.rpartition('.')[2]}/{method}"
    with recorded_call("grpc", name, traceparent_of(context), traced=traced) as call:
        try:
            yield
            call.code = "OK"
        except grpc.aio.AbortError:
            code = context.code()
            call.code = code.name if isinstance(code, grpc.StatusCode) else Code.Name(code)
            raise


def traceparent_of(context: Any) -> str:
    """Return the caller's trace (W3C Trace Context); "" for none."""
    for key, value in context.invocation_metadata() or ():
        if key.lower() == "traceparent" and isinstance(value, str) and len(value) <= MAX_TRACEPARENT_CHARS:
            return value
    return ""


@contextmanager
def _taken_in_time() -> Iterator[None]:
    """End a call whose client does not read its responses."""
    task = asyncio.current_task()
    assert task is not None
    timer = asyncio.get_running_loop().call_later(TAKE_SECONDS, task.cancel)
    try:
        yield
    finally:
        timer.cancel()


def address_of(context: Any) -> str:
    """Return the caller's address, as in ``ipv4:192.0.2.1``."""
    return str(context.peer()).rpartition(":")[0]
