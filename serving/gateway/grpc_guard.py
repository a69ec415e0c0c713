"""In front of every gRPC method: who calls, and rich statuses for what goes wrong."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from serving.gateway.core import Core
from serving.gateway.doorkeeper import Principal
from serving.gateway.errors import ApiError, as_api_error

DOMAIN = "zoetrope"
# All of it travels in trailers, of which clients take 8 KiB. The message is there twice, once in percent-encoding.
MESSAGE_BYTES = 800
VIOLATION_BYTES = 2_400
# Services that anybody may call: probes and tools have no keys.
OPEN = ("/grpc.health.v1.", "/grpc.reflection.")
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_caller: ContextVar[Principal] = ContextVar("caller")


def caller() -> Principal:
    """Who made the call that is being answered."""
    return _caller.get()


def bearer(value: str | None) -> str | None:
    """The key of an ``authorization`` header: ``Bearer KEY``, ``Token KEY`` or the key alone."""
    if value is None:
        return None
    scheme, _, rest = value.strip().partition(" ")
    key = rest.strip() if scheme.lower() in ("bearer", "token") else value.strip()
    return key or None


def to_status(error: ApiError) -> status_pb2.Status:
    """The google.rpc.Status with its details; of very many or very long violations, the first ones."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=_cut(error.message, MESSAGE_BYTES))
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if error.violations:
        fields, left = [], VIOLATION_BYTES
        for v in error.violations:
            field, description = _cut(v.field, 200), _cut(v.description, MESSAGE_BYTES)
            left -= len(field.encode()) + len(description.encode())
            if left < 0:
                break
            fields.append(error_details_pb2.BadRequest.FieldViolation(field=field, description=description))
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if error.quota is not None:
        violation = error_details_pb2.QuotaFailure.Violation(subject=error.quota[0], description=error.quota[1])
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    if error.retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(max(1, round(error.retry_seconds * 1_000)))
        details.append(retry)
    for detail in details:
        status.details.add().Pack(detail)
    return status


class Guarded(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A service whose callers are admitted and whose errors are answered; health and reflection answer for themselves.

    Each method is wrapped once. An interceptor of grpc's would be asked anew, in coroutines of its own, at every call.
    """

    def __init__(self, service: Any, core: Core) -> None:
        """
        Args:
            service: a grpc.GenericRpcHandler.
        """
        self._service = service
        self._core = core
        self._methods: dict[str, Any] = {}

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method; None where this service has no such method."""
        name = handler_call_details.method
        handler = self._methods.get(name)
        if handler is None:
            handler = self._service.service(handler_call_details)
            if handler is not None:
                handler = self._methods[name] = self._guard(name, handler)
        return handler

    def _guard(self, name: str, handler: Any) -> Any:
        if name.startswith(OPEN):
            return _guard_open(handler)
        if handler.unary_unary:
            return _guard_parser(handler._replace(unary_unary=self._answer(handler.unary_unary)))
        if handler.stream_unary:
            return _guard_parser(handler._replace(stream_unary=self._answer(handler.stream_unary)))
        if handler.unary_stream:
            return _guard_parser(handler._replace(unary_stream=self._stream(handler.unary_stream)))
        raise AssertionError(f"{name} is of a kind that nobody guards")

    def _answer(self, method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                await self._admit(context)
                return await method(_checked(request), context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await _abort(context, error)

        return guarded

    def _stream(self, method: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                await self._admit(context)
                async for message in method(_checked(request), context):
                    yield message
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await _abort(context, error)

        return guarded

    async def _admit(self, context: Any) -> None:
        metadata = {key.lower(): value for key, value in context.invocation_metadata() or ()}
        value = metadata.get("authorization")
        _caller.set(await self._core.admit(bearer(value if isinstance(value, str) else None)))


class Guarding:
    """Stands for a server where services are added to it, and guards them."""

    def __init__(self, server: Any, core: Core) -> None:
        self._server = server
        self._core = core

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        self._server.add_generic_rpc_handlers([Guarded(handler, self._core) for handler in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Newer generated code tells methods this way too; grpc.aio has no use for it."""


def _guard_parser(handler: Any) -> Any:
    """What cannot be parsed reaches the guarded method as the exception, for grpc itself would answer UNKNOWN."""

    def parse(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError as error:
            return error

    return handler._replace(request_deserializer=parse)


def _checked(request: Any) -> Any:
    """A message, or a stream of them, that was parsed.

    Raises:
        ApiError: it was not; of a stream, when it comes to that message.
    """
    if isinstance(request, DecodeError):
        raise ApiError("INVALID_ARGUMENT", "MALFORMED_MESSAGE", "the request is not a well-formed message")
    return _each_checked(request) if isinstance(request, AsyncIterator) else request


async def _each_checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _guard_open(handler: Any) -> Any:
    """Health and reflection, whose methods are coroutines or generators of grpc's own: only their input is guarded."""
    kind = next(name for name in KINDS if getattr(handler, name))
    method = getattr(handler, kind)

    async def answer(request: Any, context: Any) -> Any:
        try:
            return await method(_checked(request), context)
        except NotImplementedError:  # grpc's health service lacks a method of its own protocol
            await _abort(context, ApiError("UNIMPLEMENTED", "NOT_OFFERED", "this method is not offered"))
        except ApiError as error:
            await _abort(context, error)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for message in method(_checked(request), context):
                yield message
        except ApiError as error:
            await _abort(context, error)

    return _guard_parser(handler._replace(**{kind: stream if inspect.isasyncgenfunction(method) else answer}))


def _cut(text: str, limit: int) -> str:
    """At most so many bytes of it."""
    data = text.encode()
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "..."


async def _abort(context: Any, error: Exception) -> NoReturn:
    await context.abort_with_status(rpc_status.to_status(to_status(as_api_error(error))))
    raise AssertionError("abort raises")
